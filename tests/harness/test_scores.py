"""`score`: log-probabilities of continuations, against transformers; prompts of token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from generation import tiny_writers
from harness.asked import POSITIONS
from spcore.api import LanguageModelHandle, load_model
from spcore.artifact import Artifact
from spcore.errors import DataError, RefusalError, UserError
from spcore.testing.checks import Where, run_checks
from spcore.testing.suites.runtime import RuntimeCase, runtime_score
from spcore_torch.options import RuntimeOptions
from spcore_torch.runtime import TorchRuntime

PAIRS = [
    ("The capital of France is", " Paris"), ("The capital of France is", " Rome"), ("The", " capital of Italy is Rome."), ("a", "b"), ("", "The town"),
    ("What is the capital of Norway?", " Oslo, Oslo, Oslo"),
]  # fmt: skip


def expected(folder: Path, before: list[int], ids: list[int]) -> tuple[float, bool]:
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    with torch.no_grad():
        logits = reference(torch.tensor([before + ids[:-1]])).logits[0, len(before) - 1 :].double()
    found = logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].sum()
    return float(found), bool((logits.argmax(-1) == torch.tensor(ids)).all())


def test_texts_and_ids_score_as_transformers_says(model: LanguageModelHandle, folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    pairs = [(tokenizer(a)["input_ids"], tokenizer(a + b)["input_ids"]) for a, b in PAIRS]
    pairs = [(before, whole[len(before) :]) for before, whole in pairs]
    likeliest = model.generate("The capital of", max_new_tokens=5, temperature=0)[0]
    texts, ids = model.score(PAIRS), model.score(pairs)
    assert texts == ids
    for score, (before, after) in zip(texts, pairs, strict=True):
        logprob, greedy = expected(folder, before, after)
        assert score.logprob == pytest.approx(logprob, abs=1e-4)  # float32 in batches of other shapes
        assert (score.greedy, score.tokens) == (greedy, len(after))
    assert likeliest["tokens"] == 5
    assert model.score([]) == []


def test_what_the_model_would_write_is_the_likeliest(model: LanguageModelHandle) -> None:
    prompt = list(model.processor.encode("The capital of").arrays["input_ids"].tolist())
    found: list[int] = []
    for _ in range(4):
        every = model.score([([*prompt, *found], [token]) for token in range(model.processor.vocabulary_size)])
        (best,) = [token for token, score in enumerate(every) if score.greedy]
        assert best == max(range(len(every)), key=lambda token: every[token].logprob)
        found.append(best)
    assert sum(score.greedy for score in model.score([(prompt, found), (prompt, [*found[:3], found[3] ^ 1])])) == 1
    assert model.generate([prompt], max_new_tokens=4, temperature=0)[0]["text"] == model.processor.decode(found)


def test_token_ids_are_prompts(model: LanguageModelHandle) -> None:
    text = "The capital of Italy is Rome. " * 8
    ids = model.processor.encode(text).arrays["input_ids"].tolist()
    settings = {"max_new_tokens": 20, "temperature": 0, "truncate": "left"}
    assert len(ids) > POSITIONS - 20
    assert model.generate([ids, ids[:9]], **settings) == [
        model.generate(text, **settings)[0], model.generate([ids[:9]], **settings)[0],
    ]  # fmt: skip
    with pytest.raises(UserError, match="prompt 1: there is no token 999999; the vocabulary has"):
        model.generate([ids[:2], [999999]])
    with pytest.raises(UserError, match="its prompt takes texts"):
        model.generate([ids], preset={"prompt": "{text}"})


def test_what_cannot_be_scored_is_refused(model: LanguageModelHandle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="continuation 1: '' adds no token to its prompt"):
        model.score([("a", "b"), ("a", "")])
    with pytest.raises(DataError, match="continuation 0: a text after token ids"):
        model.score([([1], "b")])
    with pytest.raises(UserError, match=r"the prompt of continuation 0: found \(\), expected: a text, or token ids"):
        model.score([((), (1,))])
    with pytest.raises(
        RefusalError, match=f"continuation 0: 2 tokens and {POSITIONS} after them do not fit the model's {POSITIONS}"
    ):
        model.score([([1, 2], [3] * POSITIONS)])
    assert model.score([([1, 2], [3] * (POSITIONS - 1))])[0].tokens == POSITIONS - 1
    t5 = load_model(tiny_writers.saved(tmp_path / "t5", "t5"), device="cpu")
    with pytest.raises(RefusalError, match="'t5' is an encoder-decoder; `score` is for decoders"):
        t5.score([("a", "b")])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_runtime_scores_what_its_logits_say(model: LanguageModelHandle, folder: Path, dtype: Any) -> None:
    runtime, task = TorchRuntime(RuntimeOptions(dtype=dtype)), model.task()[1]
    case = RuntimeCase(runtime, Artifact(folder / "model", model._model, {}), task, folder / "model")
    case.runner = runtime.load(case.artifact, task, "cpu")
    report = run_checks((runtime_score,), case, Where())
    assert [check for _, check in report.ran] == ["runtime.score"]
    assert report.findings == [], str(report)
