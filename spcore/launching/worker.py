"""One process of a run that a launcher started."""

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
from spcore.interfaces.strategy import Layout, Refusal
from spcore.launching.channel import Channel, Hub

START = """
import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
    sys.path[:] = json.load(file)["path"]
from spcore.launching.worker import start
start(sys.argv[1])
"""
"""What a process runs: it finds this package wherever the caller has it from."""


def refusals(spec: RunSpec, name: str, max_restarts: int) -> list[Refusal]:
    """What a launcher of that name, which starts processes, cannot start: parts without an import path, restarts from nowhere."""
    found = []
    if not sys.executable:
        why = "this program has a Python of its own built in, and processes need the path of one (sys.executable)"
        found.append(Refusal(f"launch {name!r}", why, "use launch=inline"))
    if spec.registry.local:
        why = f"it cannot import what was registered by hand without an import path: {', '.join(spec.registry.local)}"
        found.append(Refusal(f"launch {name!r}", why, "put them into a module, or use launch=inline"))
    if max_restarts and not spec.recipe.get("train", {}).get("save_every"):
        why = "there would be no checkpoint to go on from"
        found.append(Refusal(f"launch.max_restarts {max_restarts}", why, "give train.save_every"))
    return found


def content_of(spec: RunSpec, hub: Hub) -> dict[str, Any]:
    """What the processes of a run are told, as JSON: with it they find the caller's modules, and the caller."""
    return {
        "spec": spec_to_json(spec), "address": hub.address, "token": hub.token, "path": [str(path) for path in sys.path],
        "level": logging.getLogger("slimpajama").getEffectiveLevel(),
    }  # fmt: skip


def command(file: Path) -> list[str]:
    """The command of a process. file: with its content."""
    return [sys.executable, "-P", "-c", START, str(file)]


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
    # A terminal sends Ctrl-C to every process of a run, a scheduler SIGTERM, or SIGUSR2 before a job's time is up: the parent decides on
    # the one, all alike on the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: channel.stop.set())
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
