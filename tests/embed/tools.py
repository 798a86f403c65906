"""Runs as an embedding program makes them, and programs that make them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import slimpajama
from spcore.interfaces.logger import Event, Step

ROOT = Path(__file__).resolve().parents[2]
WORDS = (("good", "yes"), ("bad", "no"), ("fine", "yes"), ("dull", "no"))
ROWS: list[dict[str, object]] = [
    {"text": f"a {word} film, " * (1 + n % 5), "label": label} for n in range(4) for word, label in WORDS
]
TEXTS = [str(row["text"]) for row in ROWS]
CHILDREN = {"strategy": "ddp", "launch": {"use": "local", "processes": 2}}
"""Settings of a run in two processes."""


def settings_of(how: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    """Settings of a short run: dropout on, an evaluation at the end."""
    return {
        "train.epochs": None,
        "train.steps": 4,
        "train.global_batch_size": 6,
        "device": "cpu",
        **(how or {}),
        **train,
    }


class Told:
    """What a run told, step by step; `then` is called with each event. Losses to the bit, with their steps."""

    def __init__(self, then: Any = None) -> None:
        self.losses: list[tuple[int, float, float]] = []
        self.then = then

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step):
            self.losses.append((event.step, event.loss, event.grad_norm))
        if self.then is not None:
            self.then(event)


def finetune(model: str, told: Any = None, how: dict[str, Any] | None = None, **more: Any) -> Any:
    """A fine-tuned handle."""
    handle = slimpajama.load_model(model)
    settings = settings_of(how, **more.pop("train", {}))
    handle.finetune(
        ROWS, "text-classification", eval_dataset=ROWS[:5], progress=False, on_event=told, settings=settings, **more
    )
    return handle


def program(arguments: Sequence[str], *, stdin: str | None = None, path: bool = True, **how: Any) -> str:
    """What a Python program of a user's own writes to stdout; it must end in order and write nothing to stderr."""
    done = run_program(arguments, stdin=stdin, path=path, **how)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def run_program(
    arguments: Sequence[str], *, stdin: str | None = None, path: bool = True, **how: Any
) -> subprocess.CompletedProcess[str]:
    """Run a Python program. path: whether the environment says where the packages and the tests are."""
    environment = {**os.environ, **how.pop("env", {})}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), *places()])
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=200, check=False, env=environment, **how
    )


def places() -> list[str]:
    """Where this repository's packages are."""
    return [str(ROOT), str(ROOT / "plugins"), str(ROOT / "backends")]
