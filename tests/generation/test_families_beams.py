"""Beam search over real decoders, whose caches beams copy into each other, against `transformers.generate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_writers as tiny
import torch

from spcore.generation import DecodingLoop
from spcore.interfaces.model import LanguageModel, Steps
from spcore.interfaces.runtime import Decodes, GenerationRequest


def searched(model: LanguageModel, decodes: Decodes, asked: list[GenerationRequest]) -> list[list[list[int]]]:
    """[request][sample], all of them at once, as far as there are slots."""
    assert isinstance(model, Steps)
    loop = DecodingLoop(decodes, prefill_tokens=5, decoder_start=model.generation().get("decoder_start"))
    place = {loop.submit(request): n for n, request in enumerate(asked)}
    found: list[list[list[int]]] = [[[] for _ in range(request.n)] for request in asked]
    for event in loop.events():
        if event.token >= 0:
            found[place[event.request]][event.sample].append(event.token)
    return found


@pytest.mark.parametrize(
    ("name", "early", "penalty"),
    [
        ("llama", False, 1.0), ("llama-tied", True, 0.0), ("mistral", False, 2.0), ("qwen3", True, 1.0), ("gemma3_text", False, 1.0),
        ("gpt2", False, 0.5), ("bloom", True, 1.0), ("opt", False, 1.0), ("t5", False, 1.0), ("t5-untied", True, 2.0), ("bart", False, 2.0),
        ("marian", True, 1.0),
    ],
)  # fmt: skip
def test_beams_are_those_of_generate(tmp_path: Path, name: str, early: bool, penalty: float) -> None:
    folder = tiny.saved(tmp_path / "model", name)
    model, module = tiny.opened(folder)
    asked = [
        replace(request, beams=beams, n=n, length_penalty=penalty, early_stopping=early)
        for request, (beams, n) in zip(
            tiny.requests(6, seed=7), [(3, 1), (4, 4), (2, 2), (5, 2), (3, 3), (4, 1)], strict=True
        )
    ]
    whole = tiny.reference(folder)
    expected = []
    for request in asked:
        ids = torch.tensor([request.ids])
        made = whole.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=request.max_new_tokens, num_beams=request.beams, do_sample=False,
            num_return_sequences=request.n, length_penalty=penalty, early_stopping=early,
        )  # fmt: skip
        expected.append([tiny.answer(whole, row, len(request.ids)) for row in made.tolist()])
    assert searched(model, tiny.decoder(model, module, slots=9), asked) == expected
