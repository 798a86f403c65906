"""`model.tokenizer` that is made of a run's own texts: the one that `tokenizer train` makes, made once, and saved with the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from spcore.components import default_registry
from spcore.errors import SlimPajamaError
from spcore.recipe import Recipe, load_recipe
from spcore.session import assemble
from spcore_transformers.tokenizer_corpus import train_tokenizer

PAIRS = [{"source": f"the dog number {n} sleeps", "target": f"der Hund Nummer {n} schläft"} for n in range(40)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIMPAJAMA_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return file


def recipe(data: Path, tokenizer: Any = None, **model: Any) -> Recipe:
    tokenizer = tokenizer or {"kind": "bpe", "vocabulary_size": 300, "sentinels": 0}
    sizes = {"architecture": "t5", "hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 16}
    tree = {
        "model": {"use": "transformers", "tokenizer": tokenizer, **sizes, **model}, "task": "seq2seq",
        "data": {"source": str(data)}, "train": {"steps": 1}, "output": str(data.parent / "run"),
    }  # fmt: skip
    return load_recipe(tree, registry=default_registry())


def test_it_is_the_tokenizer_that_the_command_makes(data: Path, tmp_path: Path) -> None:
    session = assemble(recipe(data), default_registry())
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": row[key]}) + "\n" for row in PAIRS for key in ("source", "target")))
    train_tokenizer(str(texts), tmp_path / "wanted", kind="bpe", vocabulary_size=300, sentinels=0, style="t5")
    wanted = AutoTokenizer.from_pretrained(tmp_path / "wanted")
    found = session.plan.model.processor
    assert found.vocabulary_size == len(wanted)
    for row in PAIRS[:3]:
        assert found.encode(row["source"]).arrays["input_ids"].tolist() == wanted(row["source"])["input_ids"]


def test_it_is_made_once_and_anew_for_other_texts_or_options(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "tokenizers"
    first = assemble(recipe(data), default_registry()).plan.model.processor.fingerprint
    (made,) = folder.iterdir()
    before = (made / "tokenizer.json").stat().st_mtime_ns
    assert assemble(recipe(data), default_registry()).plan.model.processor.fingerprint == first
    assert ((made / "tokenizer.json").stat().st_mtime_ns, len(list(folder.iterdir()))) == (before, 1)
    assemble(recipe(data, {"kind": "bpe", "vocabulary_size": 310, "sentinels": 0}), default_registry())
    data.write_text(json.dumps({"source": "x y " * 200, "target": "z"}) + "\n")
    assemble(recipe(data), default_registry())
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    ("tokenizer", "model", "said"),
    [
        ({"kind": "bpe"}, {}, "vocabulary_size: kind bpe needs one"),
        (
            {"kind": "bpe", "vocabulary_size": 20, "sentinels": 0},
            {},
            "vocabulary_size 20: special tokens and bytes alone need",
        ),
        ({"kind": "bpe", "size": 20}, {}, "model.tokenizer"),
        (None, {"architecture": None, "source": "somewhere"}, "know their own tokenizer's ids only"),
    ],
)
def test_what_cannot_be_made_is_refused(data: Path, tokenizer: Any, model: dict[str, Any], said: str) -> None:
    if model:
        model |= dict.fromkeys(("hidden_size", "layers", "heads", "intermediate_size"))
    with pytest.raises(SlimPajamaError, match=said):
        assemble(recipe(data, tokenizer, **model), default_registry())
