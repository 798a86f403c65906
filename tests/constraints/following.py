"""Texts written under a constraint by a model that knows nothing."""

from __future__ import annotations

from typing import Any

from generation.tokenizers_small import processor
from spcore.generation import DecodingLoop
from spcore.interfaces.runtime import Constraint, GenerationRequest, Grammar
from spcore.testing.fakes import FakeDecoder
from spcore.writing import Written, write
from spcore_constraints import constraints, options

NAMES = {"json-schema": "JsonSchema", "regex": "Regex", "choice": "Choice"}


def made(use: str, **given: Any) -> Constraint:
    """As the registry makes it."""
    name = NAMES[use]
    part: Constraint = getattr(constraints, name)(getattr(options, f"{name}Options")(**given))
    return part


def written(kind: str, grammar: Grammar, **more: Any) -> list[Written]:
    """Samples of one request over random logits; a vocabulary whose end token is <eos>. The logits are one wider than the tokenizer."""
    decoder = FakeDecoder(slots=6, length=512, vocabulary=processor(kind).vocabulary_size + 1)
    request = GenerationRequest(**{"ids": (5, 6), "max_new_tokens": 400, "stop": (1,), "grammar": grammar, **more})
    (found,) = write(DecodingLoop(decoder), processor(kind), [request])
    assert decoder.held == set()
    return found
