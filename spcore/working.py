"""Processes that make features of rows, for `spcore.featurizing`: each has the task, gets rows and gives what became of them.

They are new interpreters and no forks: a fork takes over the locks and threads of torch and tokenizers as they stand. The caller's
main module is not run in them. They ignore Ctrl-C, which is the caller's to judge, and end when the caller is gone, killed or not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from spcore.errors import RunError
from spcore.features import Outcome, outcome
from spcore.interfaces.dataset import Row
from spcore.interfaces.task import BoundTask

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Each process has a core to itself."""
_Process = subprocess.Popen[bytes]
log = logging.getLogger("slimpajama.features")


class Workers:
    """Processes with a task."""

    def __init__(self, started: Sequence[tuple[_Process, Connection]]) -> None:
        self._started = list(started)

    def __len__(self) -> int:
        """Processes."""
        return len(self._started)

    @classmethod
    def start(cls, task: BoundTask, count: int, stack: contextlib.ExitStack) -> Workers | None:
        """So many processes, which end with the stack; None where there would be one, or the task cannot be handed on: one that is
        defined in the caller's main script, or holds what cannot be pickled."""
        if count < 2 or not sys.executable:
            return None
        try:
            packed = pickle.dumps(task)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            log.warning("features are made by one process: the task cannot be handed to others: %s", error)
            return None
        if any(cls.__module__ == "__main__" for cls in type(task).__mro__):
            log.warning("features are made by one process: %s is defined in the main script", type(task).__name__)
            return None
        started = [_started(packed, stack) for _ in range(count)]
        for process, connection in started:
            wrong = _answer(process, connection)
            if wrong is not None:
                log.warning("features are made by one process: the task does not open in another: %s", wrong)
                return None
        return cls(started)

    def outcomes(self, chunks: Iterator[tuple[int, list[Row]]]) -> Iterator[tuple[int, list[Outcome]]]:
        """What the task makes of chunks of rows, in their order, each with its number. A process gets a chunk when it has given back
        the one before, so neither waits for the other to read; at most two chunks a process are under way. Raises what the task
        raised, RunError where a process died."""
        idle, busy, made = list(self._started), dict[Connection, tuple[_Process, int, int]](), dict[int, Any]()
        sent = given = 0
        while True:
            while idle and sent - given < 2 * len(self) and (chunk := next(chunks, None)) is not None:
                process, connection = idle.pop()
                with contextlib.suppress(BrokenPipeError):  # the answer says why
                    connection.send(chunk[1])
                busy[connection] = process, sent, chunk[0]
                sent += 1
            if given in made:
                yield made.pop(given)
                given += 1
                continue
            if not busy:
                return
            ready = wait(list(busy))
            for connection in [each for each in busy if each in ready]:
                process, number, first = busy.pop(connection)
                found = _answer(process, connection)
                if isinstance(found, BaseException):
                    raise found
                made[number] = first, found
                idle.append((process, connection))


def _started(packed: bytes, stack: contextlib.ExitStack) -> tuple[_Process, Connection]:
    ours, theirs = Pipe()
    with theirs:
        handle = theirs.fileno()
        process = subprocess.Popen(
            [sys.executable, "-c", f"from spcore.working import serve; serve({handle})"],
            pass_fds=[handle], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
    stack.callback(process.wait)
    stack.callback(process.kill)
    stack.callback(ours.close)
    with contextlib.suppress(BrokenPipeError):
        ours.send_bytes(packed)
    return process, ours


def _answer(process: _Process, connection: Connection) -> Any:
    """What a process says next. Raises RunError where it is gone."""
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError) as error:
        code = process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise RunError(
            f"a process that makes features {how}",
            hint="What is made is kept: start again; where memory is short, with fewer cores (taskset)",
        ) from error


def serve(handle: int) -> None:
    """The life of such a process. handle: of its end of the pipe: first the pickled task, answered by None or by what is wrong with
    it, then rows, answered by their outcomes or by the exception that the task raised."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(handle) as connection, contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            task: BoundTask = pickle.loads(connection.recv_bytes())
        except (ImportError, AttributeError, TypeError, ValueError, pickle.UnpicklingError) as error:
            connection.send(f"{type(error).__name__}: {error}")
            return
        connection.send(None)
        while True:
            rows = connection.recv()
            try:
                made: Any = [outcome(row, task) for row in rows]
            except Exception as error:  # a fault of the task's, whatever it is, is raised where the rows came from
                made = _portable(error)
            connection.send(made)


def _portable(error: Exception) -> Exception:
    """The exception with the place where it was raised, as far as it can be sent."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # pickling calls the exception's own code
        return RunError(f"the task failed: {type(error).__name__}: {error}")
    return error
