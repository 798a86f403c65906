"""`evaluate --tasks` as a person types it, what it keeps, and what it refuses in one line."""

from __future__ import annotations

import importlib.metadata
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.api import task as tasks_of_library
from tqdm import tqdm
from typer.testing import CliRunner

from harness.asked import save_tasks
from spcore.api import LanguageModelHandle, load_model
from spcore.cli.app import app
from spcore.components import Component, Registry
from spcore.errors import ComponentError, RefusalError, SlimPajamaError, SourceError, UserError
from spcore.testing import check_plugin
from spcore_lm_eval import plugin


def typed(*words: str) -> Any:
    return CliRunner().invoke(app, ["evaluate", *words])


def refused(*words: str) -> str:
    """The one line of a command that fails."""
    error = typed(*words).exception
    assert isinstance(error, SlimPajamaError)
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.slow  # a name that no folder has is looked for in lm-eval's 14,000 files
def test_it_passes_the_kit() -> None:
    registry = Registry(entry_points=False)
    registry.register(plugin, name="lm_eval")
    report = check_plugin(registry, "lm_eval")
    assert report.findings == [], str(report)
    assert ("harness/lm-eval", "harness.refuses") in report.ran


def test_figures_in_a_table_and_in_files(folder: Path, tmp_path: Path) -> None:
    line = [
        str(folder / "model"),
        "--tasks",
        "letters,writ*",
        "--tasks-folder",
        str(folder / "tasks"),
        "--limit",
        "2",
        "--device",
        "cpu",
    ]
    done = typed(*line, "--name", "first", "--shots", "1", "--set", "harness.seed=3")
    assert done.exit_code == 0, done.stderr
    kept = folder / "model" / "evaluations" / "first"
    found = json.loads((kept / "metrics.json").read_text())
    assert found["harness"].startswith("lm-eval 0.")
    figures = found["tasks"]["letters"]
    assert list(figures) == ["metrics", "stderr", "rows", "of", "shots", "version"]
    assert (figures["rows"], figures["of"], figures["shots"]) == (2, 6, 1)
    assert done.stdout.splitlines()[0].split() == ["task", "metric", "value", "standard", "error", "rows", "shots"]
    assert {words.split()[0] for words in done.stdout.splitlines()[1:]} == {"letters", "written"}
    samples = [json.loads(row) for row in (kept / "samples" / "written.jsonl").read_text().splitlines()]
    assert [sample["doc"]["country"] for sample in samples] == ["France", "Japan"]
    assert f"kept in {kept}" in done.stderr
    again = typed(*line, "--output", str(tmp_path / "kept"), "--shots", "1", "--set", "harness.seed=3", "--json")
    assert json.loads(again.stdout) == found == json.loads((tmp_path / "kept" / "metrics.json").read_text())


def test_nothing_of_the_process_is_changed(
    model: LanguageModelHandle, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    random.seed(7)
    np.random.seed(7)
    before = random.getstate(), np.random.get_state()[1].tolist()
    model.evaluate_tasks(["letters"], tasks_folder=str(folder / "tasks"), limit=1)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert tasks_of_library.tqdm is tqdm
    assert tuple(capfd.readouterr()) == ("", "")


def test_without_the_extra_it_says_what_to_install(model: LanguageModelHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def lacking(name: str) -> str:
        if name == "lm-eval":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", lacking)
    with pytest.raises(
        ComponentError, match=r"^harness.use: harness 'lm-eval' needs lm-eval>=.*: pip install \"slimpajama\[eval\]\"$"
    ):
        model.evaluate_tasks(["letters"])


def test_without_a_harness_it_says_so(folder: Path) -> None:
    bare = load_model(folder / "model", registry=Registry(blocked=["lm_eval"]), device="cpu")
    with pytest.raises(UserError, match="no harness is installed"):
        bare.evaluate_tasks(["letters"])


def test_options_that_do_not_go_together(folder: Path) -> None:
    path = str(folder / "model")
    assert "neither of --data and --tasks" in refused(path)
    assert "both of --data and --tasks" in refused(path, "--data", "x.csv", "--tasks", "letters")
    assert "--split goes with --data, and --tasks is given" in refused(path, "--tasks", "letters", "--split", "test")
    assert "--shots goes with --tasks, and --data is given" in refused(path, "--data", "x.csv", "--shots", "0")
    assert "--name and --output" in refused(path, "--tasks", "letters", "--name", "a", "--output", "b")
    assert "is no folder" in refused("gguf:lost.gguf", "--tasks", "letters", "--name", "a")
    assert "expected with --tasks: harness.KEY" in refused(path, "--tasks", "letters", "--set", "task.x=1")
    assert "harness.shot: unknown" in refused(path, "--tasks", "letters", "--set", "harness.shot=1")


def test_a_model_that_writes_nothing_is_refused_by_name(minilm: str) -> None:
    with pytest.raises(RefusalError, match="'bert' reads a text from both sides"):
        load_model(minilm, device="cpu").evaluate_tasks(["letters"])


@pytest.mark.parametrize(
    ("fields", "options", "error", "words"),
    [
        ({}, {"tasks_folder": "lost"}, SourceError, "tasks_folder 'lost': no such folder"),
        ({}, {"max_length": 97}, RefusalError, "max_length 97: model '.*' has 96 positions"),
        ({}, {"max_length": 14}, RefusalError, "task 'written': answers of 14 tokens leave no room for a prompt in 14"),
        ({"num_fewshot": 0}, {"shots": 2}, RefusalError, "shots 2: task 'written' says that it has none"),
        ({"generation_kwargs": {"penalty_alpha": 1}}, {}, RefusalError, "task 'written': generation_kwargs.penalty_alpha is not known"),
        ({"doc_to_text": "{{lost}}"}, {}, SourceError, "task 'written' cannot be had: UndefinedError: 'lost' is undefined"),
        ({"dataset_kwargs": {"data_files": {"test": "lost.jsonl"}}}, {}, SourceError, "task 'written' cannot be had: FileNotFoundError"),
        ({"output_type": "sung"}, {}, SourceError, "task 'written' cannot be had: ValueError: .*sung"),
        ({"dataset_kwargs": {"data_files": {"test": "empty.jsonl"}}}, {}, SourceError, "task 'written' cannot be had: "),
        ({"unsafe_code": True}, {}, RefusalError, "task 'written' runs code that the model writes"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(
    model: LanguageModelHandle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    options: dict[str, Any],
    error: Any,
    words: str,
) -> None:
    options = {"tasks_folder": save_tasks(tmp_path), **options}
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").touch()
    file = tmp_path / "written.yaml"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    with pytest.raises(error, match=words) as told:
        model.evaluate_tasks(["written"], **options)
    assert "\n" not in str(told.value)


def test_a_second_plugin_may_offer_one(folder: Path) -> None:
    from spcore.testing.fakes import FakeHarness

    registry = Registry(blocked=["lm_eval"])
    registry.add(
        Component("harness", "fake", "spcore.testing.fakes.harness:FakeHarness", "Two tasks", default=True), FakeHarness
    )
    done = load_model(folder / "model", registry=registry, device="cpu").evaluate_tasks(["likely", "written"])
    assert done.tasks["likely"].metrics["logprob"] < 0
    assert len(done.samples["written"]) == 2
