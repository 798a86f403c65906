"""What a process has is as it was before: after everything that the library does, after failures, after a wish to stop."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import slimpajama
from embed.snapshot import differences, snapshot, torch_s_store
from embed.tools import CHILDREN, ROWS, TEXTS, finetune, program
from spcore.interfaces.logger import Event, Step


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """Assert that the process is left as it is now."""
    gc.collect()
    before = snapshot()
    yield
    gc.collect()  # handles, and their temporary folders with them
    assert differences(before, snapshot()) == []


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder for temporary files, and generators amid their sequences."""
    torch_s_store()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def stopping(event: threading.Event, step: int = 2) -> Callable[[Event], None]:
    """Sets an event at a step's end."""

    def told(happened: Event) -> None:
        if isinstance(happened, Step) and happened.step == step:
            event.set()

    return told


def failing(happened: Event) -> None:
    """An embedder's callback that has a fault."""
    if isinstance(happened, Step):
        raise KeyError("the caller's own")


HOW: dict[str, dict[str, Any]] = {"inline": {}, "children": CHILDREN}
OTHERS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "two CPU threads": {"strategy": {"use": "single", "threads": 2}},
    "loader threads": {"train.workers": 2},
}


@pytest.mark.parametrize(
    "other", [pytest.param(name, marks=[pytest.mark.slow] if "threads" in name else []) for name in OTHERS]
)
def test_by_everything_in_turn(other: str, tiny: str, tmp_path: Path) -> None:
    finetune(tiny).evaluate(ROWS)  # everything is imported
    with left_alone():
        handle = slimpajama.load_model(tiny)
        handle.embed(TEXTS)
        handle = finetune(tiny, None, OTHERS[other])
        handle.evaluate(ROWS)
        handle.predict(TEXTS)
        slimpajama.load_model(handle.save(tmp_path / "saved")).predict(TEXTS)
        handle.close()
        del handle


def test_by_mistakes(tiny: str, tmp_path: Path) -> None:
    finetune(tiny).evaluate(ROWS)
    mistakes: list[Callable[[], Any]] = [
        lambda: slimpajama.load_model(tmp_path / "nowhere"),
        lambda: slimpajama.load_model(tiny).predict(" "),
        lambda: slimpajama.load_model(tiny).save(tmp_path / "unsaved"),
        lambda: finetune(tiny, None, {"optimizer.lr": -1}),
        lambda: finetune(tiny, None, {"optimizer.lr": 1e30}),
        lambda: slimpajama.load_model(tiny).finetune(
            [{"text": " ", "label": 0}, {"text": "", "label": 1}], "text-classification"
        ),
        lambda: finetune(tiny, failing),
    ]
    for mistake in mistakes:
        with left_alone(), pytest.raises((slimpajama.SlimPajamaError, KeyError)):
            mistake()


@pytest.mark.parametrize("how", ["inline", pytest.param("children", marks=pytest.mark.slow)])
def test_by_a_run_that_is_cancelled(how: str, tiny: str) -> None:
    finetune(tiny)
    cancel = threading.Event()
    with left_alone():
        handle = slimpajama.load_model(tiny)
        result = handle.finetune(
            ROWS, "text-classification", progress=False, on_event=stopping(cancel), cancel=cancel,
            settings={"train.epochs": 5000, "device": "cpu", **HOW[how]},
        )  # fmt: skip
        assert result.cancelled
        assert result.steps == 2
        assert result.output == ""
        assert handle.task()[1].head.kind == "vocabulary", "it stands for what it stood for before"
        del handle


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["optimizer", "callback"])
def test_by_child_processes_that_fail(trouble: str, tiny: str) -> None:
    finetune(tiny)
    with left_alone():
        if trouble == "callback":
            with pytest.raises(KeyError, match="the caller's own"):
                finetune(tiny, failing, CHILDREN)
        else:
            with pytest.raises(slimpajama.RunError, match="not finite") as caught:
                finetune(tiny, None, {**CHILDREN, "optimizer.lr": 1e30})
            assert isinstance(caught.value.__cause__, slimpajama.RankError)
            assert "Traceback" in caught.value.__cause__.traceback
            del caught


def test_the_second_of_a_handle_s_temporary_folders_takes_the_first_s_place(tiny: str) -> None:
    handle = finetune(tiny)
    first = handle.artifact().folder
    handle.finetune(ROWS, "text-classification", epochs=1, progress=False)
    assert not first.exists()
    assert [p.name for p in Path(tempfile.gettempdir()).iterdir()] == [handle.artifact().folder.parent.name]


FRESH = """
import os, random, sys, tempfile
from embed.snapshot import differences, snapshot, torch_s_store
from embed.tools import CHILDREN, ROWS, finetune
random.seed(1)
tempfile.tempdir = sys.argv[2]
before = snapshot()
import slimpajama
handle = slimpajama.load_model(sys.argv[1])
handle.embed(["a film"])
handle = finetune(sys.argv[1])
handle.evaluate(ROWS)
handle.predict("a film")
handle.save(sys.argv[3])
del handle
print("in one process:", *differences(before, snapshot()))
torch_s_store()
before["open files"] = snapshot()["open files"]
finetune(sys.argv[1], how=CHILDREN)
print("in two:", *differences(before, snapshot()))
print("may write here:", os.access(".", os.W_OK))
"""


def _obeying() -> None:
    """Before a program of root's begins: modes of files count for it as for anybody."""
    drop, override_modes = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
    ctypes.CDLL(None).prctl(drop, override_modes, 0, 0, 0)


def test_by_a_process_s_first_use(tiny: str, tmp_path: Path) -> None:
    """What libraries do when they are imported is undone too. The script has no `if __name__ == "__main__"`, a working directory that
    is read-only, no home and no caches."""
    work, fresh, script = tmp_path / "work", tmp_path / "fresh", tmp_path / "script.py"
    work.mkdir(mode=0o555)
    fresh.mkdir()
    script.write_text(FRESH)
    hidden = {name: "" for name in os.environ if name.startswith(("HF_", "XDG_", "SLIMPAJAMA_"))}
    environment = {**hidden, "HOME": str(work / "home"), "TMPDIR": str(fresh), "HF_HUB_OFFLINE": "1"}
    arguments = [str(script), tiny, str(fresh), str(tmp_path / "saved")]
    found = program(arguments, cwd=work, env=environment, preexec_fn=_obeying)
    assert found.splitlines() == ["in one process:", "in two:", "may write here: False"]
    assert list(work.iterdir()) == []
