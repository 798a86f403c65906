"""Dirty files read by the objectives: every text that a file holds is used or counted, whatever stands beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "dirt"))

from dirt_cases import CASES
from language_tools import bind, words_tokenizer
from transformers import PretrainedConfig

from spcore.errors import SlimPajamaError
from spcore.featurizing import featurize
from spcore.interfaces.task import Limits
from spcore.rows import open_rows
from spcore.text import TEXT, visible
from spcore_data.files import Files
from spcore_data.options import FilesOptions
from spcore_transformers.processor import TransformersProcessor

PROCESSOR = TransformersProcessor(words_tokenizer("bert"), PretrainedConfig(), None)


TASKS: list[tuple[str, dict[str, str]]] = [
    ("causal-lm", {}),
    ("masked-lm", {"masking": "whole-word"}),
    ("denoising", {}),
]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param(name, number, marks=[] if number == n % 3 else pytest.mark.slow)
        for n, name in enumerate(CASES)
        for number in range(3)
    ],
)
def test_a_text_is_used_or_counted(name: str, number: int, tmp_path: Path) -> None:
    """`make test` takes each case with one of the tasks, in turn."""
    case = CASES[name]
    try:
        dataset = Files(FilesOptions.model_validate({"source": str(case.lay(tmp_path / "data"))}))
        rows = open_rows(dataset, [TEXT], columns={}, split=None, limit=None)
        length = rows.length
        assert length is not None
        texts = [row["text"] for row in rows.read(range(length))]
    except SlimPajamaError:
        assert case.rows is None, "a file is refused here and read elsewhere"
        return
    task, options = TASKS[number]
    store = featurize(rows, bind(task, Limits(16), PROCESSOR, **options), limit=16)
    assert store.counts.read == length == store.counts.used + sum(store.counts.dropped_total.values())
    readable = [n for n, text in enumerate(texts) if isinstance(text, str) and visible(text)]
    used = sorted(set(store.rows.tolist()))
    if task == "denoising":
        lost = set(readable) - set(used)
        assert lost == {n for n in readable if len(texts[n].split()) < 2}, "there is none to take out of one"
    else:
        assert used == readable


@pytest.mark.parametrize("task", ["causal-lm", "masked-lm", "denoising"])
@pytest.mark.parametrize(
    "text", ["\ufeff a b", "a\x00b c", "a\u200b\u200b b", "a " * 3000, "\U0001f642 \u0301 x", "a\r\n\tb"]
)
def test_strange_texts_are_texts(task: str, text: str) -> None:
    made = bind(task, Limits(16), PROCESSOR).featurize({"text": text})
    assert made
    assert all(0 < f.length <= 16 for f in made)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "blank text"), (" \t\u200b", "blank text"), (None, "blank text"), (["a"], "text is a list")],
)
def test_what_is_no_text_is_a_dropped_row(text: object, said: str) -> None:
    for task in ("causal-lm", "masked-lm", "denoising"):
        if isinstance(text, list):
            said = f"text is a list{' of other things than ids of tokens' if task == 'causal-lm' else ', not a text'}"
        with pytest.raises(SlimPajamaError, match=f"^{said}$"):
            bind(task, Limits(16), PROCESSOR).featurize({"text": text})
