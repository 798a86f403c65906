"""Every family that decodes, against `transformers.generate`: greedy, float32, token for token."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_writers as tiny
import torch

from spcore.errors import RefusalError
from spcore.interfaces.runtime import GenerationRequest
from spcore_transformers.decoding import DECODED, SlotDecoder
from spcore_transformers.llama_steps import LlamaDecoder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tiny.saved(tmp_path_factory.mktemp(name), name)
        return made[name]

    return folder


def test_every_family_is_tried() -> None:
    assert {family for family, _ in (*tiny.WRITERS.values(), *tiny.FURTHER.values())} == DECODED


def test_the_documentation_lists_every_family() -> None:
    text = Path("docs/generation.md").read_text()
    listed = text.partition("## Families")[2].partition("Others are refused")[0].partition("any time:")[2]
    assert set(re.findall(r"`(\w+)`", listed)) == DECODED


@pytest.mark.parametrize(
    "name", [*tiny.WRITERS, *(pytest.param(name, marks=pytest.mark.slow) for name in tiny.FURTHER)]
)
def test_rows_that_join_and_leave_are_what_generate_gives_alone(folders: Any, name: str) -> None:
    folder = folders(name)
    model, module = tiny.opened(folder)
    asked = tiny.requests(12, seed=1)
    expected = tiny.theirs(folder, asked)
    assert len({token for row in expected for token in row}) > 6, "answers that say something"
    assert tiny.told(model, tiny.decoder(model, module), asked, seed=2) == expected


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2-window", "gemma3_text", "gpt2", "t5", "bart"])
def test_eager_attention_and_whole_prompts_give_the_same(folders: Any, name: str) -> None:
    folder = folders(name)
    model, module = tiny.opened(folder, attention="eager")
    decodes = tiny.decoder(model, module, slots=5)
    assert type(decodes) is SlotDecoder, "eager attention is the family's own"
    asked = tiny.requests(8, seed=3)
    assert tiny.told(model, decodes, asked, seed=4, chunk=512) == tiny.theirs(folder, asked, "eager")


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "mistral", "t5", "marian"])
def test_a_padded_batch_of_generate_is_the_same(folders: Any, name: str) -> None:
    """Decoders are padded on the left, encoders on the right."""
    folder = folders(name)
    model, module = tiny.opened(folder)
    asked = [GenerationRequest(r.ids, max_new_tokens=9, stop=(tiny.END,)) for r in tiny.requests(6, seed=5)]
    whole, seq2seq = tiny.reference(folder), model.config.is_encoder_decoder
    rows = [torch.tensor(r.ids) for r in asked]
    side = "right" if seq2seq else "left"
    ids, mask = (
        torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_side=side)
        for part in (rows, [torch.ones_like(row) for row in rows])
    )
    made = whole.generate(ids, attention_mask=mask, max_new_tokens=9, do_sample=False).tolist()
    expected = [tiny.answer(whole, row, ids.shape[1]) for row in made]
    assert tiny.told(model, tiny.decoder(model, module, slots=6), asked, seed=0) == expected


def logits(decodes: Any, slot: int, ids: list[int], seq2seq: bool, first: bool = True) -> np.ndarray:
    row = {"decoder_input_ids" if seq2seq else "input_ids": np.array(ids)}
    if seq2seq and first:
        row["input_ids"] = np.array([7, 8, 9, 10 + slot])
    found: np.ndarray = decodes.prefill([row], [slot])[0]
    return found


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2", "bart", "t5"])
def test_copies_are_made_at_once_and_freed_slots_are_empty(folders: Any, name: str) -> None:
    model, module = tiny.opened(folders(name))
    decodes, seq2seq = tiny.decoder(model, module), model.config.is_encoder_decoder
    texts = [[5, 6, 7], [30, 31, 32, 33, 34, 35], [90]]
    for slot, text in enumerate(texts):
        logits(decodes, slot, text, seq2seq)
    alone = decodes.decode([50, 51, 52], [0, 1, 2])
    for slot, text in enumerate(texts):  # anew, then turned round by one: none may be read after it was written
        decodes.free([slot])
        logits(decodes, slot, text, seq2seq)
    decodes.copy([0, 1, 2], [1, 2, 0])
    turned = decodes.decode([52, 50, 51], [0, 1, 2])
    # Products of other shapes add up in another order: a few units in the last place of logits of some 30.
    np.testing.assert_allclose(turned, alone[[2, 0, 1]], rtol=1e-4, atol=2e-4)
    decodes.free([0, 1, 2])
    again = logits(decodes, 2, [5, 6, 7], seq2seq) if not seq2seq else None
    if again is not None:
        other = tiny.decoder(model, module)
        np.testing.assert_allclose(again, logits(other, 0, [5, 6, 7], seq2seq), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text"])
def test_what_a_broken_answer_left_reaches_no_other(folders: Any, name: str) -> None:
    model, module = tiny.opened(folders(name))
    decodes = tiny.decoder(model, module, slots=2)
    weight = next(module.parameters())
    logits(decodes, 0, [5], False)
    clean = decodes.prefill([{"input_ids": np.array([9, 8])}, {"input_ids": np.array([7])}], [1, 0])
    decodes.free([0, 1])
    kept, weight.data = weight.data, torch.full_like(weight.data, torch.nan)
    for slot in (0, 1):
        assert np.isnan(logits(decodes, slot, [5, 6, 7, 8], False)).all()
    weight.data = kept
    decodes.free([0, 1])
    decodes.prefill([{"input_ids": np.array([5])}], [0])
    found = decodes.prefill([{"input_ids": np.array([9, 8])}, {"input_ids": np.array([7])}], [1, 0])
    np.testing.assert_allclose(found, clean, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_memory_is_taken_as_it_is_needed_and_the_module_stays_as_it_is(folders: Any, name: str) -> None:
    model, module = tiny.opened(folders(name))
    before = {n: (p.data_ptr(), p._version) for n, p in module.named_parameters()}
    modules = [type(part) for part in module.modules()]
    decodes: Any = tiny.decoder(model, module, slots=64, length=64)
    logits(decodes, 0, [5] * 3, model.config.is_encoder_decoder)
    assert {tuple(layer.keys.shape[:2]) for layer in decodes.layers} == {(1, 3)}
    decodes.decode([5], [0])
    assert {tuple(layer.keys.shape[:2]) for layer in decodes.layers} == {(1, 64)}
    logits(decodes, 2, [5] * 3, model.config.is_encoder_decoder)
    assert {layer.keys.shape[0] for layer in decodes.layers} == {3}
    assert decodes.prefill([], []).shape == decodes.decode([], []).shape == (0, 120)
    assert before == {n: (p.data_ptr(), p._version) for n, p in module.named_parameters()}
    assert modules == [type(part) for part in module.modules()]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_window_is_not_widened_by_a_slot_that_is_copied_and_grows(folders: Any) -> None:
    """More columns than a cache begins with, beyond the window of every layer."""
    folder = folders("mistral")
    model, module = tiny.opened(folder)
    asked = [
        GenerationRequest((5, 6, 7), max_new_tokens=50, stop=(tiny.END,)),
        GenerationRequest((9,) * 9, max_new_tokens=50, stop=(tiny.END,)),
    ]
    assert tiny.told(model, tiny.decoder(model, module), asked, seed=1) == tiny.theirs(folder, asked)


def test_sixteen_bits_follow_transformers(folders: Any) -> None:
    folder = folders("llama")
    model = tiny.opened(folder)[0]
    module = tiny.frozen(model, tiny.LANGUAGE, dtype="bfloat16")
    ids = [5, 9, 33, 71, 20, 11]
    whole = tiny.reference(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        expected = whole(torch.tensor([ids])).logits[0, -1].float().numpy()
        exact = tiny.reference(folder)(torch.tensor([ids])).logits[0, -1].numpy()
    found = logits(tiny.decoder(model, module), 0, ids, False)
    # As near to float32 as transformers' own bfloat16 is, within twice its distance.
    assert np.abs(found - exact).max() <= 2 * np.abs(expected - exact).max()


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "gpt2", "bart", "t5"])
def test_under_autocast_it_follows_transformers(folders: Any, name: str) -> None:
    """As engines evaluate: float32 weights, products in bfloat16."""
    folder = folders(name)
    model, module = tiny.opened(folder)
    seq2seq, ids = model.config.is_encoder_decoder, [5, 9, 33, 71, 20, 11]
    given = (
        {"input_ids": torch.tensor([[7, 8, 9, 10]]), "decoder_input_ids": torch.tensor([ids])}
        if seq2seq
        else {"input_ids": torch.tensor([ids])}
    )
    whole = tiny.reference(folder)
    with torch.no_grad():
        exact = whole(**given).logits[0, -1].numpy()
        with torch.autocast("cpu", torch.bfloat16):
            expected = whole(**given).logits[0, -1].float().numpy()
            decodes = tiny.decoder(model, module)
            logits(decodes, 0, ids[:3], seq2seq)
            found = logits(decodes, 0, ids[3:5], seq2seq, first=False)
            found = decodes.decode(ids[5:], [0])[0]
    # As near to float32 as transformers' own pass under autocast is, within twice its distance.
    assert np.abs(found - exact).max() <= 2 * np.abs(expected - exact).max()
    assert {layer.keys.dtype for layer in decodes.layers} == {torch.bfloat16}  # type: ignore[attr-defined]


def test_llama_and_its_kin_take_the_short_way(folders: Any) -> None:
    for name in ("llama-biased", "mistral", "qwen2", "qwen3-yarn"):
        model, module = tiny.opened(folders(name))
        assert type(tiny.decoder(model, module)) is LlamaDecoder


def test_more_positions_than_there_are_and_other_families_are_refused(folders: Any, tmp_path: Path) -> None:
    model, module = tiny.opened(folders("llama"))
    with pytest.raises(RefusalError, match="65 positions asked for, it has 64"):
        tiny.decoder(model, module, length=65)
