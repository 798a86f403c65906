"""What prompts have in common is fed once, and nobody's tokens change by it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from spcore.generation import DecodingLoop
from spcore.generation.slots import SHARED_TOKENS
from spcore.interfaces.runtime import Crops, GenerationRequest
from spcore.testing.fakes import FakeDecoder

SYSTEM = tuple(8 + n % 50 for n in range(60))


class Uncroppable(FakeDecoder):
    """Without the ability."""

    crop = None  # type: ignore[assignment]


def request(*ids: int, **more: Any) -> GenerationRequest:
    return GenerationRequest(ids, **{"max_new_tokens": 5, "temperature": 1.0, **more})


def run(loop: DecodingLoop, asked: Sequence[GenerationRequest]) -> list[list[int]]:
    """Tokens of each request's samples, one after another."""
    numbers = [loop.submit(one) for one in asked]
    told: dict[tuple[int, int], list[int]] = {
        (n, k): [] for n, one in zip(numbers, asked, strict=True) for k in range(one.n)
    }
    for event in loop.events():
        told[event.request, event.sample] += [event.token] if event.token >= 0 else []
    return list(told.values())


@functools.cache
def alone(asked: GenerationRequest) -> list[list[int]]:
    return run(DecodingLoop(FakeDecoder(length=256)), [asked])


def test_a_beginning_that_prompts_share_is_fed_once() -> None:
    asked = [request(*SYSTEM, 8 + n, 9 + n, variant=n) for n in range(8)]
    decoder = FakeDecoder(slots=4, length=128)
    assert run(DecodingLoop(decoder), asked) == [tokens for one in asked for tokens in alone(one)]
    assert decoder.prefilled == len(SYSTEM) + 8 * 2, "those that waited for a slot share it too"


def test_a_prompt_asked_again_is_fed_its_last_token() -> None:
    asked = [request(*SYSTEM, variant=n) for n in range(3)]
    decoder = FakeDecoder(slots=3, length=128)
    assert run(DecodingLoop(decoder), asked) == [tokens for one in asked for tokens in alone(one)]
    assert decoder.prefilled == len(SYSTEM) + 2


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("made", [FakeDecoder, Uncroppable])
def test_whatever_is_shared_tokens_are_those_of_the_request_alone(made: type[FakeDecoder], keep: bool) -> None:
    rng = np.random.default_rng(3)
    for _ in range(25):
        decoder = made(slots=int(rng.integers(3, 6)), length=128)
        loop = DecodingLoop(decoder, prefill_tokens=int(rng.choice([7, 40, 512])))
        asked = []
        for variant in range(8):
            ids = [*SYSTEM[: rng.integers(0, 60)], *rng.integers(8, 60, rng.integers(1, 50))]
            if asked and rng.random() < 0.3:
                ids = [*asked[-1].ids, *alone(asked[-1])[0][:3], 9]
            width = {"beams": 3, "temperature": 0.0} if rng.random() < 0.2 else {"n": int(rng.integers(1, 4))}
            kept = keep and rng.random() < 0.7
            asked.append(request(*(int(i) for i in ids[:100]), variant=variant, keep=kept, **width))
        gone = loop.submit(request(*SYSTEM, keep=keep))
        list(zip(range(int(rng.integers(0, 3))), loop.events(), strict=False))
        loop.cancel(gone)
        list(loop.events())
        half = len(asked) // 2
        assert run(loop, asked[:half]) == [tokens for one in asked[:half] for tokens in alone(one)]
        assert run(loop, asked[half:]) == [tokens for one in asked[half:] for tokens in alone(one)]
        loop.close()
        assert decoder.held == set()


def test_a_short_beginning_is_not_worth_a_copy() -> None:
    decoder = FakeDecoder(slots=2, length=128)
    run(DecodingLoop(decoder), [request(*SYSTEM[: SHARED_TOKENS - 1], 50 + n) for n in range(2)])
    assert decoder.prefilled == 2 * SHARED_TOKENS
    assert not any(method in ("copy", "crop") for method, _ in decoder.calls)


def test_a_prompt_waits_for_the_one_that_feeds_its_beginning_and_for_no_other() -> None:
    decoder = FakeDecoder(slots=3, length=128)
    loop = DecodingLoop(decoder, prefill_tokens=40)
    asked = [request(*SYSTEM, 8), request(*SYSTEM, 9), request(30, 31)]
    for one in asked:
        loop.submit(one)
    order = [event.request for event in loop.events()]
    assert order.index(0) < order.index(2) < order.index(1)
    assert decoder.prefilled == len(SYSTEM) + 1 + 1 + 2


def test_one_that_waited_goes_on_where_the_other_was_cancelled() -> None:
    loop = DecodingLoop(FakeDecoder(slots=3, length=128), prefill_tokens=20)
    loop.submit(request(30, 31, max_new_tokens=50))
    next(loop.events())
    first, second = loop.submit(request(*SYSTEM, 8)), loop.submit(request(*SYSTEM, 9))
    next(loop.events())
    loop.cancel(first)
    told = [event for event in loop.events() if event.request in (first, second)]
    assert [event.finish for event in told if event.request == first] == ["cancelled"]
    assert [event.token for event in told if event.request == second] == alone(request(*SYSTEM, 9))[0]


# Turns of a chat


def turn(*ids: int, **more: Any) -> GenerationRequest:
    return request(*ids, keep=True, **more)


def turns(loop: DecodingLoop, count: int, *, keep: bool = True) -> list[int]:
    """Prompt lengths; each turn's prompt is what was said before and more."""
    ids, lengths = SYSTEM, []
    for n in range(count):
        asked = request(*ids, variant=n, max_new_tokens=6, keep=keep)
        lengths.append(len(ids))
        (answer,) = run(loop, [asked])
        assert [answer] == alone(asked)
        ids = (*ids, *answer, 20, 21 + n)
    return lengths


@pytest.mark.parametrize("made", [FakeDecoder, Uncroppable])
def test_the_next_turn_goes_on_where_the_last_one_ended(made: type[FakeDecoder]) -> None:
    decoder = made(slots=2, length=256)
    turns(DecodingLoop(decoder), 5)
    # The answer's last token was never fed; it and the two of the next question are.
    assert decoder.prefilled == len(SYSTEM) + 4 * 3
    assert not any(method == "copy" for method, _ in decoder.calls), "it goes on in its slot"


def test_without_keep_every_turn_is_fed_whole_and_slots_are_empty_between() -> None:
    decoder = FakeDecoder(slots=2, length=256)
    lengths = turns(DecodingLoop(decoder), 4, keep=False)
    assert decoder.prefilled == sum(lengths)
    assert decoder.held == set()


def test_an_answer_that_is_written_otherwise_in_the_next_turn_is_cut_off() -> None:
    decoder = FakeDecoder(slots=1, length=256)
    loop = DecodingLoop(decoder)
    run(loop, [turn(*SYSTEM)])
    asked = turn(*SYSTEM, 60, 61)
    assert run(loop, [asked]) == alone(asked)
    assert decoder.prefilled == len(SYSTEM) + 2
    assert ("crop", (0,)) in decoder.calls


def test_what_is_kept_keeps_nobody_out() -> None:
    decoder = FakeDecoder(slots=2, length=256)
    loop = DecodingLoop(decoder)
    run(loop, [turn(*SYSTEM, 8), turn(*SYSTEM, 9)])
    assert len(decoder.held) == 2
    asked = [request(40, 41, variant=n) for n in range(4)]
    assert run(loop, asked) == [tokens for one in asked for tokens in alone(one)]
    assert max(len(slots) for method, slots in decoder.calls if method == "decode") == 2
    loop.close()
    assert decoder.held == set()


def test_of_kept_slots_the_longest_unused_goes_first() -> None:
    decoder = FakeDecoder(slots=3, length=256)
    loop = DecodingLoop(decoder)
    chats = [tuple(i + 1 if i % 2 else i for i in SYSTEM[n:]) for n in range(3)]
    for chat in chats:
        run(loop, [turn(*chat)])
    run(loop, [turn(50, 51)])  # takes the slot of the first
    before = decoder.prefilled
    run(loop, [turn(*chats[1], 9), turn(*chats[2], 9)])
    assert decoder.prefilled == before + 2
    run(loop, [turn(*chats[0], 9)])
    assert decoder.prefilled == before + 2 + len(chats[0]) + 1


def test_encoder_decoders_share_nothing_but_samples() -> None:
    decoder = FakeDecoder(slots=4, length=16, encoder_length=80)
    loop = DecodingLoop(decoder, decoder_start=4)
    run(loop, [turn(*SYSTEM, 8, n=2), turn(*SYSTEM, 9)])
    assert decoder.prefilled == 2
    assert decoder.held == set()


def test_the_fake_decoder_crops() -> None:
    assert isinstance(FakeDecoder(), Crops)


def test_another_chat_of_the_same_system_prompt_leaves_the_first_ones_slot_alone() -> None:
    decoder = FakeDecoder(slots=2, length=256)
    loop = DecodingLoop(decoder)
    long = (*SYSTEM, *(9 + n % 40 for n in range(70)))
    run(loop, [turn(*long)])
    run(loop, [turn(*SYSTEM, 55)])
    before = decoder.prefilled
    run(loop, [turn(*long, 57)])
    assert decoder.prefilled == before + 1


def test_what_was_kept_serves_nobody_who_does_not_ask_for_it() -> None:
    decoder = FakeDecoder(slots=2, length=256)
    loop = DecodingLoop(decoder)
    run(loop, [turn(*SYSTEM, 8)])
    before = decoder.prefilled
    run(loop, [request(*SYSTEM, 9)])
    assert decoder.prefilled == before + len(SYSTEM) + 1
    run(loop, [turn(*SYSTEM, 8)])
    assert decoder.prefilled == before + len(SYSTEM) + 2, "and was left alone by it"
