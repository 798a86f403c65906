"""One process of a run that launcher `local` started."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spcore.components import Component, RegistrySpec
from spcore.errors import SlimPajamaError
from spcore.interfaces.launcher import Probe, RunSpec
from spcore.interfaces.strategy import Layout
from spcore_torch.channel import Channel


def spec_to_json(spec: RunSpec) -> dict[str, Any]:
    """A run as JSON; what is alive in the parent stays there."""
    return {
        "recipe": dict(spec.recipe), "registry": asdict(spec.registry), "axes": list(spec.layout.axes.items()), "inline": spec.inline,
        "probe": asdict(spec.probe) if spec.probe else None,
    }  # fmt: skip


def spec_from_json(content: dict[str, Any]) -> RunSpec:
    """What `spec_to_json` made."""
    registry = content["registry"]
    parts: list[dict[str, Any]] = [
        {k: tuple(v) if isinstance(v, list) else v for k, v in part.items()} for part in registry["parts"]
    ]
    spec = RegistrySpec(
        registry["entry_points"],
        tuple((name, module) for name, module in registry["modules"]),
        tuple(registry["blocked"]),
        parts=tuple(Component(**part) for part in parts),
    )
    probe = Probe(**content["probe"]) if content["probe"] else None
    return RunSpec(content["recipe"], spec, Layout(dict(content["axes"])), content["inline"], probe=probe)


def failure(error: BaseException) -> dict[str, Any]:
    """An error as JSON. echo: it only says that another process is gone: it came out of a collective."""
    frames = traceback.extract_tb(error.__traceback__)
    own = isinstance(error, SlimPajamaError)
    return {
        "kind": type(error).__name__ if own else None, "message": getattr(error, "message", str(error)),
        "hint": getattr(error, "hint", None), "traceback": "".join(traceback.format_exception(error)),
        "echo": not own and bool(frames) and "/torch/distributed/" in frames[-1].filename.replace("\\", "/"),
    }  # fmt: skip


class _Telling(logging.Handler):
    """Log lines go to the logging of the process that started this one."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """As `logging.Handler.emit`."""
        told = {"name": record.name, "level": record.levelno, "message": self.format(record)}
        with contextlib.suppress(OSError):  # the parent is gone, and this process follows it
            self.channel.say({"log": told})


def main(file: Path) -> int:
    """Run this process's rank. Returns the exit code."""
    content = json.loads(file.read_text(encoding="utf-8"))
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    channel = Channel(tuple(content["address"]), content["token"], rank, attempt)
    # A terminal sends Ctrl-C to every process of a run, a scheduler SIGTERM: the parent decides on the one, all alike on the other.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: channel.stop.set())
    logging.basicConfig(
        level=logging.WARNING if rank == 0 else logging.ERROR, format="%(message)s", handlers=[_Telling(channel)]
    )
    if rank == 0:
        logging.getLogger("slimpajama").setLevel(content["level"])
    try:
        from spcore.session import run_rank

        _share_processors(int(os.environ["LOCAL_WORLD_SIZE"]))
        spec = spec_from_json(content["spec"])
        place = spec.layout.place(rank, local_rank)
        result = run_rank(spec, place, channel.tell, channel)
    except BaseException as error:  # whatever it is, the parent shows it as this rank's
        channel.say({"failed": failure(error)})
        channel.say({"bye": 1})
        return 1
    if place.is_writer:
        channel.say({"result": {**vars(result), "metrics": dict(result.metrics)}})
    channel.say({"bye": 1})
    return 0


def _share_processors(processes: int) -> None:
    """A fair part of the processors for each process of this node, unless the environment says how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def start(file: str) -> None:
    """Run this process's rank and leave."""
    os.dup2(2, 1)  # what plugins print is not the run's result
    code = main(Path(file))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking gloo's and nccl's threads down in order aborts now and then
