"""Corpora of tokens in training: what causal-lm learns from them is what it learns from the texts; what refuses them; writing them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from indexed_tools import opened, rows, written

from spcore import run
from spcore.cli import main
from spcore.cli.inspection import inspected
from spcore.components import default_registry
from spcore.errors import DataError, OutputError, RecipeError, RefusalError
from spcore.recipe import load_recipe
from spcore.session import Session, assemble
from spcore_megatron.indexed_writing import write_index

MODEL = {
    "use": "transformers", "architecture": "llama", "tokenizer": "bytes", "hidden_size": 16, "layers": 1, "heads": 2, "positions": 64,
}  # fmt: skip
TEXTS = [f"{n}: " + "the bird sees a cat and a dog. " * (n % 5 + 1) for n in range(24)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


def recipe(data: dict[str, Any], **more: Any) -> dict[str, Any]:
    train = {"steps": 3, "global_batch_size": 4}
    return {
        "model": MODEL,
        "task": "causal-lm",
        "data": {"max_length": 48, "pack": 64, **data},
        "train": train,
        "loggers": ["jsonl"],
        **more,
    }


def assembled(data: dict[str, Any], **more: Any) -> Session:
    registry = default_registry()
    return assemble(load_recipe(recipe(data, **more), registry=registry), registry)


def indexed(texts: Path, prefix: Path, **more: Any) -> dict[str, Any]:
    file = prefix.with_suffix(".yaml")
    file.write_text(json.dumps(recipe({"use": "corpus", "source": str(texts)}, **more)))
    return write_index(file, prefix, default_registry())


@pytest.mark.parametrize("task", [{}, {"end_of_text": False}, {"shift": True}, {"look_ahead": False}])
def test_windows_are_those_of_the_texts(texts: Path, tmp_path: Path, task: dict[str, Any]) -> None:
    named = {"use": "causal-lm", **task}
    made = indexed(texts, tmp_path / "docs", task=named)
    ours = assembled({"use": "corpus", "source": str(texts)}, task=named).training()
    theirs = assembled({"source": str(tmp_path / "docs.idx")}, task=named).training()
    assert len(ours) == len(theirs) > len(TEXTS)
    for one, other in ((ours[n], theirs[n]) for n in range(len(ours))):
        assert one.arrays.keys() == other.arrays.keys()
        for name in one.arrays.keys() - {"bytes", "characters"}:
            assert np.array_equal(one.arrays[name], other.arrays[name]), name
    end = task.get("end_of_text", True)
    assert made["tokens"] == sum(len(text) + end for text in TEXTS)
    assert (made["documents"], made["dtype"], made["dropped"]) == (24, "uint16", {})


def test_a_run_on_tokens_is_the_run_on_texts(texts: Path, tmp_path: Path) -> None:
    """The same losses to the bit, the same order; an evaluation says nothing of bytes, which it does not know."""
    indexed(texts, tmp_path / "docs")
    losses, figures = [], []
    for n, data in enumerate([{"use": "corpus", "source": str(texts)}, {"source": str(tmp_path / "docs.idx")}]):
        output = tmp_path / f"run{n}"
        figures.append(run(recipe(data, output=str(output), eval={"data": {"limit": 8}})).metrics)
        events = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        losses.append([event["loss"] for event in events if event["event"] == "step"])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3
    assert set(figures[0]) - set(figures[1]) == {"bits_per_byte", "nats_per_character"}
    assert figures[1] == {name: figures[0][name] for name in figures[1]}


def test_tokens_of_another_tokenizer(tmp_path: Path) -> None:
    file = written(tmp_path / "a", [[[1, 2, 50300]], [[4]]])
    with pytest.raises(RefusalError) as caught:
        assembled({"source": str(file)})
    assert "data: its tokens have ids up to 50300, and the model's tokenizer has" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_that_reads_texts(tmp_path: Path) -> None:
    file = written(tmp_path / "a", [[[1, 2, 3]]])
    with pytest.raises(RefusalError, match="column 'tokens' holds ids of tokens, and the task reads texts"):
        assembled({"source": str(file)}, task="masked-lm", model={**MODEL, "architecture": "bert"})


def test_lists_of_ids_in_files(tmp_path: Path) -> None:
    """What other tools tokenised as JSON lines; a row that holds what are no ids is dropped and counted."""
    file = tmp_path / "tokens.jsonl"
    lists = [[70, 71, 72, 73], [70, 9999], [], ["a", "b"], [71, True]]
    file.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in lists))
    store = assembled({"source": str(file), "columns": {"text": "input_ids"}}).training()
    assert [f.arrays["input_ids"].tolist() for f in map(store.__getitem__, range(len(store)))] == [[70, 71, 72, 73]]
    assert sorted(store.counts.dropped_total.values()) == [1, 1, 2]


def test_inspect_recognises_them(tmp_path: Path) -> None:
    file = written(tmp_path / "a", [[list(range(9))], [[1]], [[50300, 3]]])
    found = inspected(str(file), default_registry())
    json.dumps(found)
    assert found["task"] == "causal-lm"
    assert found["files"] == [{"path": str(file), "format": "Megatron's index of uint16", "rows": 3, "tokens": 12}]
    assert found["columns"]["tokens"]["role"] == "text"
    assert found["lengths"]["unit"] == "tokens"
    assert (found["lengths"]["least"], found["lengths"]["most"]) == (1, 9)
    assert found["problem"] is None


def test_what_is_written_is_whole_or_not_there(texts: Path, tmp_path: Path) -> None:
    indexed(texts, tmp_path / "docs")
    before = rows(opened(tmp_path / "docs.idx"))
    with pytest.raises(OutputError, match=r"docs.bin is there already. Give another output, or --overwrite"):
        indexed(texts, tmp_path / "docs")
    texts.write_text(json.dumps({"text": "another"}) + "\n")
    write_index(tmp_path / "docs.yaml", tmp_path / "docs.idx", default_registry(), overwrite=True)
    assert rows(opened(tmp_path / "docs.idx")) != before
    assert not list(tmp_path.glob(".writing-*"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"task": "masked-lm", "model": {**MODEL, "architecture": "bert", "tokenizer": "WORDS"}}, RefusalError, "task 'masked-lm'"),
        ({"data": {"sources": {"a": {"source": "TEXTS", "weight": 1}}}}, RefusalError, "one indexed data set for each source"),
        ({"data": {"source": "TEXTS", "columns": {"text": "no"}}}, (DataError, RecipeError), "unknown column 'no'"),
    ],
)  # fmt: skip
def test_what_is_not_written(change: dict[str, Any], error: Any, message: str, texts: Path, tmp_path: Path) -> None:
    given = (
        json.dumps({**recipe({"source": str(texts)}), **change}).replace("TEXTS", str(texts)).replace("WORDS", "bytes")
    )
    (tmp_path / "a.yaml").write_text(given)
    with pytest.raises(error, match=message):
        write_index(tmp_path / "a.yaml", tmp_path / "docs", default_registry())
    assert not (tmp_path / "docs.idx").exists()


def test_the_commands(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe({"source": str(texts)})))

    def told(*words: str) -> tuple[Any, str, str]:
        monkeypatch.setattr("sys.argv", ["slimpajama", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    prefix = str(tmp_path / "docs")
    code, out, err = told("megatron", "index", str(file), "data.limit=5", "--output", prefix, "--json")
    assert code == 0, err
    assert json.loads(out)["documents"] == 5
    code, out, _ = told("data", "inspect", f"megatron:{prefix}", "--json")
    assert (code, json.loads(out)["rows"]["used"]) == (0, 5)
    Path(f"{prefix}.bin").write_bytes(b"abc")
    code, out, err = told("data", "inspect", f"{prefix}.idx")
    assert (code, out, err.count("\n")) == (2, "", 1), err
