"""`slimpajama data inspect`: the task that columns suit best, what a model reads of a row, and which tokens carry loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from objectives import language_tools
from spcore.cli.inspect import app
from spcore.cli.inspection import inspected
from spcore.cli.rendering import show_rendered
from spcore.components import default_registry

FILES = {
    "labels.jsonl": ([{"text": f"t {n}", "label": n % 2} for n in range(6)], "text-classification"),
    "ratings.jsonl": ([{"review": f"t {n}", "stars": n / 3} for n in range(30)], "text-classification"),
    "dialogues.jsonl": ([{"fname": f"f{n}", "dialogue": f"d {n}", "summary": f"s {n}", "topic": f"u{n}"} for n in range(30)], "seq2seq"),
    "papers.jsonl": (
        [{"source": ["a b", f"c {n}"], "source_labels": [0, 1], "target": [f"t {n}", "u"], "title": f"t {n}"} for n in range(40)],
        "seq2seq",
    ),
    "instructions.jsonl": ([{"instruction": f"do {n}", "input": "", "output": f"done {n}"} for n in range(30)], "seq2seq"),
    "programs.jsonl": ([{"text": f"write {n}", "code": f"print({n})", "task_id": n} for n in range(30)], "seq2seq"),
    "sums.jsonl": ([{"question": f"{n} + 1?", "answer": f"{n + 1}"} for n in range(30)], "seq2seq"),
    "speeches.jsonl": ([{"id": f"s{n}.txt", "text": f"speech {n}"} for n in range(30)], "causal-lm"),
    "tags.jsonl": ([{"tokens": ["a", "b"], "ner_tags": ["O", "B-PER"]} for _ in range(6)], "token-classification"),
    "endings.jsonl": (
        [{"sent1": f"a {n}", "sent2": "b", "ending0": f"c {n}", "ending1": f"d {n}", "label": n % 2} for n in range(6)],
        "multiple-choice",
    ),
    "chats.jsonl": ([{"messages": [{"role": "user", "content": "a"}], "label": True} for _ in range(6)], None),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_the_task_that_the_columns_suit_best(name: str, tmp_path: Path) -> None:
    rows, task = FILES[name]
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = inspected(str(tmp_path / name), default_registry())
    if task is None:
        assert "no column for 'text'" in found["problem"]
        assert found["remarks"] == ["column 'messages' holds conversations, turns of role, content"]
        return
    assert (found["task"], found["problem"], found["rows"]["used"]) == (task, None, len(rows))


def test_who_says_which_column_is_which_is_believed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("".join(f"one {n},two {n}\n" for n in range(30)))
    options = {"header": False, "names": ["left", "right"]}
    assert inspected(str(tmp_path / "a.csv"), default_registry(), options=options)["task"] is None
    columns = {"source": "left", "target": "right"}
    assert (
        inspected(str(tmp_path / "a.csv"), default_registry(), options={**options, "columns": columns})["task"]
        == "seq2seq"
    )


def test_texts_of_other_languages_beside_a_file_are_told(tmp_path: Path) -> None:
    for name in ("train.en", "train.de", "val.de", "train.txt"):
        (tmp_path / name).write_text("a b\n")
    remarks = inspected(str(tmp_path / "train.en"), default_registry())["remarks"]
    assert remarks[-1] == "train.en: train.de beside it are called alike (parallel:train.en reads them line by line)"


def shown(
    kind: str, task: str, row: dict[str, Any], folder: Path, **options: Any
) -> list[tuple[str, list[tuple[str, bool]]]]:
    """(part, [(text, whether it carries loss)]) of a row."""
    file = folder / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    model = str(language_tools.folder_of(kind, folder / kind))
    found = inspected(str(file), default_registry(), model=model, task=task, options=options)
    assert found["problem"] is None
    (example,) = found["examples"]
    return [
        (part["part"], [(piece["text"].strip(), piece["loss"]) for piece in part["pieces"]])
        for part in example["rendered"]
    ]


def test_settings_of_the_task(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"source": "w1", "target": "w2"}) + "\n")
    words = [
        "inspect",
        str(tmp_path / "a.jsonl"),
        "--task",
        "seq2seq",
        "--model",
        str(language_tools.folder_of("llama", tmp_path / "llama")),
    ]
    assert "a decoder is asked by a prompt" in CliRunner().invoke(app, words).stdout
    done = CliRunner().invoke(app, [*words, "--set", 'task.prompt="{source} w3 w3"'])
    assert "w1 w3 w3" in done.stdout
    assert "⟦ w2" in done.stdout
    for given, said in (
        (["--set", "task.promt=x", *words[2:4]], "task.promt: unknown key 'promt'; did you mean 'prompt'?"),
        (["--set", "task.prompt={source} w3"], "--set 'task.prompt={source} w3': not YAML"),
        (["--set", "task.prompt=x"], "task.prompt: of which task? Name it (--task)"),
        (["--set", "max_length=8"], "data.max_length: counts a model's tokens, and no model is given"),
    ):
        assert said in str(CliRunner().invoke(app, [*words[:2], *given]).exception)


def test_limits_are_those_of_the_data(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "w1 w2 w3 w4 w5 " * 9}) + "\n")
    model = str(language_tools.folder_of("llama", tmp_path / "llama"))
    (example,) = inspected(str(file), default_registry(), model=model, task="causal-lm", options={"max_length": 8})[
        "examples"
    ]
    assert len(example["rendered"]) == 3
    assert example["more"] > 1


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("sentence-embedding", {"anchor": "one", "positive": "two"}),
        ("question-answering", {"question": "a?", "context": "w " * 600, "answers": {"text": ["w " * 500 + "w"], "answer_start": [0]}}),
    ],
)  # fmt: skip
def test_without_a_model_nothing_is_missed(task: str, row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    found = inspected(str(tmp_path / "a.jsonl"), default_registry(), task=task)
    assert (found["problem"], found["rows"]["used"], found["dirt"]) == (None, 1, [])


def test_an_encoder_decoder_reads_and_writes(tmp_path: Path) -> None:
    row = {"source": "w1 w2", "target": ["w3 w4", "w5"]}
    found = shown("t5", "seq2seq", row, tmp_path)
    assert [part for part, _ in found] == ["reads", "writes", "reads", "writes"]
    assert [any(loss for _, loss in pieces) for _, pieces in found] == [False, True, False, True]
    assert found[0][1][0][0].startswith("w1 w2")
    assert found[1][1] == [("w3 w4</s>", True)] or found[1][1] == [("w3 w4 </s>", True)]


def test_of_a_decoder_each_token_but_the_first_carries_loss(tmp_path: Path) -> None:
    ((part, pieces),) = shown("llama", "causal-lm", {"text": "w1 w2 w3"}, tmp_path)
    assert part == "reads"
    assert [loss for _, loss in pieces] == [False, True]
    assert pieces[1][0].startswith(("w1 w2 w3", "w2 w3"))


def test_of_a_classifier_none_does(tmp_path: Path) -> None:
    rows = [{"text": f"w{n}", "label": n % 2} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = str(language_tools.folder_of("bert", tmp_path / "bert"))
    found = inspected(str(tmp_path / "rows.jsonl"), default_registry(), model=model)
    assert len(found["examples"]) == 3
    assert not any(
        piece["loss"] for example in found["examples"] for part in example["rendered"] for piece in part["pieces"]
    )


def test_colours_and_brackets() -> None:
    parts = [
        {
            "part": "reads",
            "tokens": 3,
            "pieces": [{"text": "a ", "loss": False}, {"text": "b", "loss": True, "label": "B-PER"}],
        }
    ]
    plain, coloured = (
        Console(color_system=None, width=80),
        Console(force_terminal=True, color_system="standard", width=80),
    )
    with plain.capture() as said:
        show_rendered(parts, plain)
    assert said.get() == "reads (3 tokens): a ⟦b⟧→B-PER\n"
    with coloured.capture() as said:
        show_rendered(parts, coloured)
    assert "\x1b[1;32mb\x1b[0m" in said.get()
    assert "⟦" not in said.get()


def test_the_command_shows_the_task(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "w1", "answer": "w2"}) + "\n")
    model = str(language_tools.folder_of("t5", tmp_path / "t5"))
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "a.jsonl"), "--task", "seq2seq", "--model", model])
    assert "task: seq2seq" in done.stdout
    assert "writes (" in done.stdout
    assert "⟦w2" in done.stdout
