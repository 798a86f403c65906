"""torch's elastic agent, in a thread of this process and without a trace in it: no signal handlers, no variables in the environment, no
draws from the global random generator, no log lines; several at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence

import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

POLL = 0.1
"""Seconds between two looks at the processes."""
LEAVE = 5
"""Seconds that a process has between being told to go and being killed."""
_HOST = "127.0.0.1"


class _Alone(RendezvousHandler):  # type: ignore[misc]
    """The meeting of one agent: for each attempt a store of its own, on a port that the system chose. torch's own handlers ask for a
    port that is free now, or wait for random times."""

    use_agent_store = True

    def __init__(self) -> None:
        self.run = uuid.uuid4().hex

    def get_backend(self) -> str:
        return "alone"

    def next_rendezvous(self) -> RendezvousInfo:
        # torch puts no prefix before an attempt's keys: in the store of the last one its addresses would be found.
        store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(_HOST, store.port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Nobody else would come."""

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self.run

    def shutdown(self) -> bool:
        return True


class Agent(threading.Thread):
    """Keeps so many processes of a command; in the caller's own thread torch's agent would take the process's signal handlers.

    exit_codes: once it has ended, rank -> code of the processes that failed, None where all left in order. broken: what the agent
    itself raised.
    """

    def __init__(self, command: Sequence[str], processes: int, max_restarts: int) -> None:
        super().__init__(name="slimpajama-agent", daemon=True)
        self.command, self.processes, self.max_restarts = command, processes, max_restarts
        self.exit_codes: dict[int, int] | None = None
        self.broken: BaseException | None = None

    def run(self) -> None:
        """Until all processes have left, or failed once too often."""
        try:
            spec = WorkerSpec(
                role="default", local_world_size=self.processes, entrypoint=self.command[0], args=tuple(self.command[1:]),
                rdzv_handler=_Alone(), max_restarts=self.max_restarts, monitor_interval=POLL, local_addr=_HOST,
            )  # fmt: skip
            agent = LocalElasticAgent(spec, DefaultLogsSpecs(log_dir=os.devnull), shutdown_timeout=LEAVE)
            with _unheard():
                result = agent.run()
        except BaseException as error:  # the caller's thread raises it
            self.broken = error
        else:
            if result.is_failed():
                self.exit_codes = {rank: failed.exitcode for rank, failed in result.failures.items()}


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """What the agent in this thread logs is not the caller's."""
    me = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != me

    names = [name for name in sys.modules if name.startswith("torch.distributed.elastic.")]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(others)
