"""Signals to the command: one finishes the step, saves and says how to go on; a second SIGINT stops at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from exact.recipes import classification, laid
from spcore.checkpoint import CheckpointStore

LAYOUTS = [("single", 1, "inline"), ("ddp", 2, "local")]


def start(folder: Path, layout: tuple[str, int, str], rows: int = 200, **train: Any) -> subprocess.Popen[str]:
    strategy, processes, launcher = layout
    recipe = laid(classification(folder, rows=rows), strategy, processes, **train)
    launch = {"use": launcher, **({"processes": processes} if launcher == "local" else {})}
    (folder / "recipe.json").write_text(json.dumps({**recipe, "launch": launch, "loggers": ["jsonl"], "eval": {}}))
    command = [
        sys.executable,
        "-m",
        "slimpajama",
        "run",
        str(folder / "recipe.json"),
        f"output={folder / 'run'}",
        "--json",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def events(run: subprocess.Popen[str], file: Path) -> Iterator[dict[str, Any]]:
    """As they are written down."""
    read = 0
    while run.poll() is None:
        text = file.read_text() if file.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        for line in whole[read:].splitlines():
            yield json.loads(line)
        read = len(whole)
        try:
            run.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_processes_finish_the_step_and_save(tmp_path: Path, number: signal.Signals) -> None:
    run = start(tmp_path, LAYOUTS[1], steps=4000)
    for event in events(run, tmp_path / "run" / "metrics.jsonl"):
        if event["event"] == "step" and event["step"] >= 3:
            run.send_signal(number)
            break
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    store = CheckpointStore(tmp_path / "run" / "checkpoints", 2)
    assert store.steps() == [json.loads(out)["steps"]]


@pytest.mark.parametrize(
    "layout",
    [pytest.param(layout, marks=pytest.mark.slow if layout[1] == 1 else []) for layout in LAYOUTS],
    ids=lambda layout: layout[0],
)
def test_a_second_interrupt_stops_at_once(tmp_path: Path, layout: tuple[str, int, str]) -> None:
    """A step, all rows one by one, takes many times as long as two signals; what was saved before stays."""
    rows = 800 * layout[1]
    run = start(tmp_path, layout, rows, steps=4000, save_every=1, global_batch_size=rows, micro_batch_size=1)
    children: list[psutil.Process] = []
    began = 0.0
    for event in events(run, tmp_path / "run" / "metrics.jsonl"):
        if event["event"] == "checkpointed":
            children = psutil.Process(run.pid).children(recursive=True)
            began = time.monotonic()
            while run.poll() is None:  # a signal that comes before the first was taken is the first
                run.send_signal(signal.SIGINT)
                try:
                    run.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    continue
            break
    assert time.monotonic() - began < 8
    _, err = run.communicate(timeout=60)
    assert run.returncode in (130, -signal.SIGINT), err
    assert "Traceback" not in err
    assert not psutil.wait_procs(children, timeout=10)[1]
    latest = CheckpointStore(tmp_path / "run" / "checkpoints", 2).latest()
    assert latest is not None
    assert latest.name in ("step-00000001", "step-00000002")  # told of the first, it may be writing the second
