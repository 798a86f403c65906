"""Dirty files from every door: the Python API and the commands `finetune`, `evaluate`, `predict`, `run` say and do the same."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dirt_cases import CASES, Case
from dirt_outcomes import outcome

import slimpajama
from spcore.cli import main
from spcore.errors import SlimPajamaError
from support.hub_content import put_tiny_bert

Command = Callable[..., tuple[int, str, str]]
REFUSED = [name for name, case in CASES.items() if case.rows is None]
BINARY = [name for name, case in CASES.items() if case.rows and {str(label) for _, label in case.rows} == {"0", "1"}]
"""Cases whose labels a model that knows 0 and 1 can be evaluated on."""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model that knows the labels 0 and 1."""
    root = tmp_path_factory.mktemp("models")
    put_tiny_bert(root, "test/tiny", ["a fine film", "dull and long", "never again"])
    rows = [{"text": text, "label": label} for text, label in [("a fine film", 1), ("dull and long", 0)] * 4]
    model = slimpajama.load_model(root / "models" / "test" / "tiny")
    model.finetune(rows, "text-classification", output=root / "tuned", epochs=1, progress=False)
    return root / "tuned"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run a command line: exit code, stdout, stderr."""
    logger = logging.getLogger("slimpajama")
    before = list(logger.handlers), logger.propagate

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["slimpajama", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield run
    logger.handlers[:], logger.propagate = before


def recipe(folder: Path, model: Path, data: Path) -> Path:
    """A recipe in a file."""
    tree = {
        "model": str(model),
        "task": "text-classification",
        "data": {"source": str(data)},
        "output": str(folder / "o"),
    }
    (folder / "recipe.json").write_text(json.dumps(tree))
    return folder / "recipe.json"


def shared_out(names: list[str], doors: list[str]) -> list[Any]:
    """Every case at every door; `make test` takes each case at one of them, in turn."""
    pairs = [(n, name, door) for n, name in enumerate(names) for door in doors]
    return [
        pytest.param(name, door, id=f"{door}: {name}", marks=[] if doors[n % len(doors)] == door else pytest.mark.slow)
        for n, name, door in pairs
    ]


def through(door: str, command: Command, tuned: Path, data: Path, folder: Path, *more: str) -> tuple[int, str, str]:
    """A file through a door: exit code, stdout, stderr. What the API raises is given as the command would."""
    training = ["--task", "text-classification", "--data", data, "--output", folder / "o"]
    words: dict[str, list[str | Path]] = {
        "run": ["run", recipe(folder, tuned, data)], "finetune": ["finetune", tuned, *training],
        "evaluate": ["evaluate", tuned, "--data", data], "predict": ["predict", tuned, "--input", data],
    }  # fmt: skip
    if door in words:
        return command(*words[door], *more)
    model = slimpajama.load_model(tuned)
    try:
        if door == "api.finetune":
            model.finetune(str(data), "text-classification", progress=False)
        else:
            model.evaluate(str(data))
    except SlimPajamaError as error:
        return error.exit_code, "", f"error: {error}\n"
    return 0, "", ""


@pytest.mark.parametrize(
    ("name", "door"), shared_out(REFUSED, ["api.finetune", "api.evaluate", "run", "finetune", "evaluate", "predict"])
)
def test_what_is_refused_is_refused_everywhere(
    name: str, door: str, tuned: Path, command: Command, tmp_path: Path
) -> None:
    """In the same words. Predictions do not meet what is wrong with labels alone, evaluations not what is learnt from them."""
    case: Case = CASES[name]
    said = outcome(case, tmp_path / "data").said[0]
    if door == "predict" and name == "no column for a role":
        said = said.replace("'text', 'label'", "'text'")
    found = through(door, command, tuned, case.lay(tmp_path / "data"), tmp_path)
    if (door == "predict" and case.labelled) or (door.endswith("evaluate") and said.startswith("label: ")):
        assert said not in found[2]
    else:
        assert found[:2] == (2, "")
        # A source that is no data at all is the setting's fault: then its place comes first.
        assert re.fullmatch(rf"error: (\S+: )*{re.escape(said)}\n", found[2])
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("name", "door"), shared_out([name for name in CASES if name not in REFUSED], ["run", "finetune"])
)
def test_what_is_read_is_planned(name: str, door: str, tuned: Path, command: Command, tmp_path: Path) -> None:
    """A dry run tells the rows that are read, every remark, and what was dropped."""
    found = outcome(CASES[name], tmp_path / "data")
    data = CASES[name].lay(tmp_path / "data")
    code, out, _ = through(door, command, tuned, data, tmp_path, "--dry-run", "--json")
    plan = json.loads(out)
    assert (code, plan["rows"]) == (0, len(found.rows or ()) + found.dropped - sum(map(len, found.by_reader.values())))
    told = [line.replace(f"{tmp_path}/data/", "") for line in plan["remarks"]]
    assert [line for line in found.remarks if line not in told] == []
    for reason, lines in found.by_reader.items():
        assert any(
            line.startswith(f"{len(lines)} row") and f"{reason} (first at line {lines[0]}" in line for line in told
        )


@pytest.mark.parametrize(("name", "door"), shared_out(BINARY, ["api.evaluate", "evaluate", "predict"]))
def test_what_is_read_is_used(name: str, door: str, tuned: Path, command: Command, tmp_path: Path) -> None:
    found, model = outcome(CASES[name], tmp_path / "data"), slimpajama.load_model(tuned)
    data = CASES[name].lay(tmp_path / "data")
    rows = found.rows or []
    if door == "predict":
        code, out, err = through(door, command, tuned, data, tmp_path, "--json")
        if found.dropped and not CASES[name].labelled:
            assert (code, out, err.count("\n")) == (2, "", 1), "answers would not match rows"
        elif not found.dropped:
            answers = model.predict([text for text, _ in rows])
            assert [(code, a["label"]) for a in json.loads(out)] == [(0, a["label"]) for a in answers]
        return
    done = model.evaluate(str(data))
    assert len(done.predictions) == len(rows)
    assert done.report["dropped_lines"] == found.by_reader
    counts = {reason: what["rows"] for reason, what in done.report["dropped"].items()}
    assert counts == {reason: n for reason, n in found.counts.items() if reason in found.by_task}
    if door == "evaluate":
        code, out, err = through(door, command, tuned, data, tmp_path, "--json")
        assert (code, json.loads(out)) == (0, done.metrics)
        assert [line for line in found.remarks if line not in err.replace(f"{tmp_path}/data/", "")] == []


def test_a_run_reports_all_of_it(tuned: Path, tmp_path: Path) -> None:
    case = CASES["all of this at once"]
    found, data = outcome(case, tmp_path / "data"), case.lay(tmp_path / "data")
    model = slimpajama.load_model(tuned)
    model.finetune(str(data), "text-classification", output=tmp_path / "o", epochs=1, progress=False)
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["train"]["rows_used"] == len(found.rows or ())
    assert {reason: what["rows"] for reason, what in report["train"]["dropped"].items()} == {
        "blank text": 1,
        "no label": 2,
    }
    for reason, lines in found.by_reader.items():
        assert any(f"{reason} (first at line {lines[0]})" in remark for remark in report["remarks"]), reason


def test_rows_of_a_program_are_read_by_the_same_rules(tuned: Path) -> None:
    held = [1, "1", 1.0, True, "True", " 1 ", 0, "0", 0.0, False, "false", None, math.nan, "", "None"]
    done = slimpajama.load_model(tuned).evaluate([{"text": "a fine film", "label": label} for label in held])
    assert [row["gold"] for row in done.predictions] == ["1"] * 6 + ["0"] * 5
    dropped = {reason: what["rows"] for reason, what in done.report["dropped"].items()}
    assert dropped == {"no label": 3, "no label ('None' stands for none)": 1}
