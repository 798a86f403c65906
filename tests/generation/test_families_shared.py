"""Real decoders: what they promise the loop, and prompts and turns that begin alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_writers as tiny

from spcore.generation import DecodingLoop
from spcore.interfaces.runtime import Crops, Decodes, GenerationRequest
from spcore.testing import check_decodes

NAMES = ("llama", "mistral", "qwen2-window", "gemma3_text", "gpt2", "bloom", "opt")
BEGINNING = tuple(5 + n * 7 % 100 for n in range(40))


class Counting:
    """Counts what is fed to prompts. A decoder that crops."""

    def __init__(self, decoder: Decodes) -> None:
        self.decoder, self.capacity, self.fed = decoder, decoder.capacity, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)

    def prefill(self, rows: Any, slots: Any) -> Any:
        self.fed += sum(len(row["input_ids"]) for row in rows)
        return self.decoder.prefill(rows, slots)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lambda name: tiny.saved(tmp_path_factory.mktemp(name), name)


def answers(loop: DecodingLoop, asked: list[GenerationRequest]) -> list[list[int]]:
    found: dict[int, list[int]] = {loop.submit(one): [] for one in asked}
    for event in loop.events():
        found[event.request] += [event.token] if event.token >= 0 else []
    return list(found.values())


@pytest.mark.parametrize("attention", [None, "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_a_shared_beginning_changes_no_token_and_is_fed_once(folders: Any, name: str, attention: str | None) -> None:
    folder: Path = folders(name)
    model, module = tiny.opened(folder, **({"attention": attention} if attention else {}))
    decoder = Counting(tiny.decoder(model, module, slots=4, length=64))
    assert isinstance(decoder, Crops)
    asked = [
        GenerationRequest((*BEGINNING, *range(50, 50 + n)), max_new_tokens=10, stop=(tiny.END,)) for n in range(1, 8)
    ]
    loop = DecodingLoop(decoder, prefill_tokens=16)
    assert answers(loop, asked) == tiny.theirs(folder, asked)
    assert decoder.fed < len(BEGINNING) + 7 * 8, "each feeds its own end alone"


@pytest.mark.parametrize("name", NAMES)
def test_turns_go_on_where_the_last_one_ended(folders: Any, name: str) -> None:
    folder: Path = folders(name)
    model, module = tiny.opened(folder)
    decoder = Counting(tiny.decoder(model, module, slots=2, length=64))
    loop, ids = DecodingLoop(decoder), BEGINNING
    for n in range(3):
        asked = [GenerationRequest(ids, max_new_tokens=5, suppress=(tiny.END,), keep=True)]
        (answer,) = answers(loop, asked)
        assert [answer] == tiny.theirs(folder, asked, suppress_tokens=[tiny.END])
        ids = (*ids, *answer, 60 + n)
    assert decoder.fed == len(BEGINNING) + 2 * 2
    # Asked again, and asked otherwise from the middle on.
    for ids in (asked[0].ids, (*BEGINNING[:36], 9, 9)):
        again = [GenerationRequest(ids, max_new_tokens=5, suppress=(tiny.END,), keep=True)]
        assert answers(loop, again) == tiny.theirs(folder, again, suppress_tokens=[tiny.END])
    assert decoder.fed == len(BEGINNING) + 2 * 2 + 1 + 2


@pytest.mark.parametrize("name", sorted(tiny.WRITERS))
def test_decoders_pass_the_suite(folders: Any, name: str) -> None:
    model, module = tiny.opened(folders(name))
    report = check_decodes(tiny.decoder(model, module))
    assert report.findings == [], str(report)
    assert report.skipped == []
    assert (("part", "decodes.crop") in report.ran) == (not model.config.is_encoder_decoder)
