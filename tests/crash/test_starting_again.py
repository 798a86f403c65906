"""A run started again in its folder: it goes on where it is the same run, and is refused in one line where it is not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from crash.fake_runs import files_of, made, recipe, registry_of_fakes
from spcore import __version__
from spcore.artifact import open_artifact, open_model
from spcore.errors import ArtifactError, OutputError
from spcore.files import read_sealed, sealed_text
from spcore.interfaces.launcher import RunResult
from spcore.interfaces.logger import Event
from spcore.recipe import Recipe, TrainSettings
from spcore.running import FREE, execute
from spcore.testing.fakes import FakeProcessor
from spcore.testing.fakes.data import FakeDataset, FakeSource

REGISTRY = registry_of_fakes()


def run(
    output: Path, *, stop_after: int | None = None, overwrite: bool = False, **changes: Any
) -> tuple[RunResult, int]:
    """A run of fakes, and after which step it began. changes: by dotted path, with "__" for the dots."""
    cancel, began = threading.Event(), []

    def told(event: Event) -> None:
        if event.name == "run_started":
            began.append(event.start_step)  # type: ignore[attr-defined]
        if stop_after is not None and getattr(event, "step", None) == stop_after:
            cancel.set()

    made_recipe = made(recipe(output), REGISTRY, **changes)
    return execute(made_recipe, REGISTRY, overwrite=overwrite, on_event=told, cancel=cancel), began[0]


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """The folder of a run that was stopped after step 3."""
    folder = tmp_path / "run"
    result, _ = run(folder, stop_after=3)
    assert (result.steps, result.cancelled) == (3, True)
    return folder


def refusal(output: Path, **changes: Any) -> str:
    """What is said where the run is not let in; nothing in the folder has changed then."""
    before = files_of(output)
    with pytest.raises(OutputError) as caught:
        run(output, **changes)
    assert files_of(output) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_run_goes_on(unfinished: Path, tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole")
    result, began = run(unfinished)
    assert (began, result.steps, result.metrics) == (3, whole.steps, whole.metrics)


SAME = {
    "where it is kept": {"loggers": ["fake"]},
    "how often it is saved": {"train__save_every": 1, "train__keep": 7},
    "how it is cut": {"train__micro_batch_size": 2, "train__micro_batch_tokens": 999, "train__workers": 2},
    "what happens to a step that is not finite": {"train__nonfinite": "skip"},
    "how it is evaluated": {"eval__every": 1, "eval__batch_tokens": 99, "eval__data": {"use": "fake", "rows": 8}},
    "that it is evaluated": {"eval__data": None},
    "device": {"device": "cpu"},
}


@pytest.mark.parametrize("what", SAME)
def test_what_does_not_change_the_result_may_differ(what: str, unfinished: Path) -> None:
    assert run(unfinished, **SAME[what])[1] == 3


def test_the_folder_may_be_named_in_another_way(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(unfinished.parent)
    (unfinished.parent / "link").symlink_to(unfinished)
    result, began = run(Path("run"), stop_after=4)
    assert (result.steps, began) == (4, 3)
    assert run(unfinished.parent / "link")[1] == 4


def test_a_moved_folder_goes_on(unfinished: Path, tmp_path: Path) -> None:
    unfinished.rename(tmp_path / "moved")
    assert run(tmp_path / "moved")[1] == 3


DIFFERENT = {
    "train.seed is 0 there, 1 here": {"train__seed": 1},
    "train.epochs is 2.0 there, 3.0 here": {"train__epochs": 3},
    "train.global_batch_size is 8 there, 4 here": {"train__global_batch_size": 4},
    "train.clip_norm is 1.0 there, None here": {"train__clip_norm": None},
    "train.deterministic is False there, True here": {"train__deterministic": True},
    "optimizer.lr is 0.05 there, 0.1 here": {"optimizer__lr": 0.1},
    "data.max_length is None there, 12 here": {"data__max_length": 12},
    "data.rows is 20 there, 24 here": {"data__rows": 24},
    "task.use is 'fake-classification' there, 'fake-two-terms' here": {"task": "fake-two-terms"},
    "model.hidden is 16 there, 8 here": {"model__hidden": 8},
    "eval.every is None there, 2 here": {"eval__every": 2, "eval__keep_best": True},
}


@pytest.mark.parametrize("said", DIFFERENT)
def test_another_run_is_refused_by_the_first_difference(said: str, unfinished: Path) -> None:
    assert refusal(unfinished, **DIFFERENT[said]) == (
        f"{unfinished}: an unfinished run of another recipe is there: {said}. Give another output, or --overwrite"
    )


def test_overwrite_begins_anew(unfinished: Path) -> None:
    (unfinished / "mine.txt").write_text("")
    result, began = run(unfinished, overwrite=True, train__seed=1)
    assert (began, result.steps) == (0, 6)
    assert not (unfinished / "mine.txt").exists()


def test_a_finished_run_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    run(tmp_path / "run")
    start = f"{tmp_path / 'run'}: a finished run is there"
    assert refusal(tmp_path / "run") == f"{start}. Give another output, or --overwrite"
    different = refusal(tmp_path / "run", train__seed=1)
    assert (
        different == f"{start}, of another recipe: train.seed is 0 there, 1 here. Give another output, or --overwrite"
    )


def test_every_setting_of_training_is_known_to_change_the_result_or_not() -> None:
    """A new setting is decided upon here, not by default."""
    free = {name for name in TrainSettings.model_fields if f"train.{name}" in FREE}
    assert free == {"micro_batch_size", "micro_batch_tokens", "save_every", "keep", "nonfinite", "workers"}
    assert set(TrainSettings.model_fields) - free == {
        "epochs", "steps", "global_batch_size", "clip_norm", "seed", "deterministic",
    }  # fmt: skip
    assert set(Recipe.model_fields) & FREE == {"output", "loggers", "launch", "device", "strategy"}


def test_data_that_has_changed_is_noticed(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FakeDataset.open

    def changed(only: str) -> None:
        def opened(self: FakeDataset, split: str | None) -> FakeSource:
            source = real(self, split)
            source.fingerprint += "x" if (split or "train") == only else ""
            return source

        monkeypatch.setattr(FakeDataset, "open", opened)

    changed("train")
    assert refusal(unfinished) == (
        f"{unfinished}: an unfinished run of another recipe is there: the data has changed since. "
        "Give another output, or --overwrite"
    )
    changed("validation")
    assert run(unfinished)[1] == 3, "what it is evaluated on teaches it nothing"


def test_evaluation_data_that_has_changed_is_noticed_where_it_chooses_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = {"eval__keep_best": True, "eval__every": 2}
    run(tmp_path / "run", stop_after=3, **best)
    real = FakeDataset.open

    def opened(self: FakeDataset, split: str | None) -> FakeSource:
        source = real(self, split)
        source.fingerprint += "x" if split == "validation" else ""
        return source

    monkeypatch.setattr(FakeDataset, "open", opened)
    assert "the evaluation data has changed since" in refusal(tmp_path / "run", **best)


def test_a_tokenizer_that_has_changed_is_noticed(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FakeProcessor.__init__

    def other(self: FakeProcessor, *args: Any) -> None:
        real(self, *args)
        self.fingerprint += "x"

    monkeypatch.setattr(FakeProcessor, "__init__", other)
    assert "the model's tokenizer has changed since" in refusal(unfinished)


def test_a_run_of_a_newer_version_is_refused_by_name(unfinished: Path) -> None:
    file = unfinished / "run.json"
    file.write_text(sealed_text({**read_sealed(file), "format": 3, "version": "2.0"}))
    assert refusal(unfinished) == (
        f"{file}: format 3, written by slimpajama 2.0; this is {__version__}, which reads up to format 1. "
        "Install that version, or give another output"
    )


def test_a_damaged_run_json_is_one_line(unfinished: Path) -> None:
    file = unfinished / "run.json"
    file.write_bytes(file.read_bytes().replace(b'"version": "0', b'"version": "8'))
    assert refusal(unfinished).startswith(
        f"{file}: cannot be read: its checksum is not its content's: the file is damaged"
    )


def test_a_folder_without_run_json_goes_on_by_its_recipe(unfinished: Path) -> None:
    (unfinished / "run.json").unlink()
    assert run(unfinished)[1] == 3


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not empty, and no run's folder"):
            run(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_unfinished_run_is_no_model(unfinished: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no slimpajama\.json there"):
        open_artifact(unfinished, REGISTRY)
    with pytest.raises(
        ArtifactError, match=r"a run that is not finished; it has no model yet\. Start it again to finish it"
    ):
        open_model(str(unfinished), REGISTRY)


def test_leftovers_of_a_crash_are_cleared_and_taken_for_nothing(unfinished: Path) -> None:
    checkpoint = unfinished / "checkpoints" / "step-00000003"
    for name in (
        ".writing-run",
        ".writing-recipe.yaml-x1",
        "checkpoints/.writing-00000004",
        "checkpoints/.removed-step-00000001",
    ):
        shutil.copytree(checkpoint, unfinished / name)
    checkpoint.rename(unfinished / "checkpoints" / ".replaced-step-00000003")
    assert run(unfinished)[1] == 3
    assert [name for name in files_of(unfinished) if ".writing" in name or ".re" in name] == []


def test_a_crash_before_the_recipe_is_written_leaves_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("")
    (tmp_path / "run" / ".writing-recipe.yaml-a0b1").write_text("model: b")
    assert run(tmp_path / "run")[1] == 0


HELD = """
import sys
from pathlib import Path
from crash.fake_runs import made, recipe, registry_of_fakes
from spcore.running import execute
registry = registry_of_fakes()
def told(event):
    if event.name == "checkpointed" and event.step == 2:
        print("step 2 is saved", flush=True)
        sys.stdin.readline()
execute(made(recipe(Path(sys.argv[1])), registry), registry, on_event=told)
"""


def environment() -> dict[str, str]:
    """A child's, that finds what this process finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_a_live_run_is_locked_and_a_killed_one_is_not(tmp_path: Path) -> None:
    live = subprocess.Popen(
        [sys.executable, "-c", HELD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip
    assert live.stdout is not None
    assert live.stdout.readline() == "step 2 is saved\n"
    for overwrite in (False, True):
        with pytest.raises(OutputError) as caught:
            run(tmp_path / "run", overwrite=overwrite)
        assert str(caught.value) == f"{tmp_path / 'run'}: another run is writing there. Give another output, or wait"
    live.send_signal(signal.SIGKILL)
    live.communicate()
    assert (tmp_path / "run" / ".lock").exists()
    result, began = run(tmp_path / "run")
    assert (began, result.steps) == (2, 6)


def test_of_two_processes_at_once_one_runs(tmp_path: Path) -> None:
    code = HELD.replace("sys.stdin.readline()", "pass")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(),
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate()[1] for process in both]
    lost = [text for process, text in zip(both, said, strict=True) if process.returncode]
    assert len(lost) == 1
    assert "another run is writing there" in lost[0] or "a finished run is there" in lost[0]
    assert open_artifact(tmp_path / "run", REGISTRY).manifest["steps"] == 6
    json.loads((tmp_path / "run" / "report.json").read_text())
