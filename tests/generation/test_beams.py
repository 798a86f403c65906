"""Beam search, token for token against transformers' own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spcore.errors import RefusalError
from spcore.generation import Chooser, DecodingLoop
from spcore.generation.beams import BeamSearch
from spcore.generation.choosing import Logits
from spcore.interfaces.runtime import GenerationRequest, Token
from spcore.testing.fakes import FakeDecoder

torch = pytest.importorskip("torch")

from generation.recomputing import RecomputingDecoder, tiny_llama, tiny_t5  # noqa: E402

llama, t5 = functools.cache(tiny_llama), functools.cache(tiny_t5)


def drain(loop: DecodingLoop) -> dict[tuple[int, int], list[Token]]:
    told: dict[tuple[int, int], list[Token]] = {}
    for event in loop.events():
        told.setdefault((event.request, event.sample), []).append(event)
    return told


def tokens(events: Sequence[Token]) -> list[int]:
    return [event.token for event in events if event.token >= 0]


def by_transformers(model: Any, asked: GenerationRequest, *, encoder: bool = False) -> list[list[int]]:
    """Texts without their end tokens, best first."""
    found = model.generate(
        torch.tensor([asked.ids]), attention_mask=torch.ones(1, len(asked.ids), dtype=torch.long), num_beams=asked.beams, do_sample=False,
        num_return_sequences=asked.n, max_new_tokens=asked.max_new_tokens, length_penalty=asked.length_penalty, early_stopping=asked.early_stopping,
        eos_token_id=list(asked.stop) or None, pad_token_id=0, repetition_penalty=asked.repetition_penalty, min_new_tokens=asked.min_new_tokens or None,
        no_repeat_ngram_size=asked.no_repeat_ngram, forced_bos_token_id=asked.forced_first if encoder else None, forced_eos_token_id=asked.forced_last,
        suppress_tokens=list(asked.suppress) or None,
    )  # fmt: skip
    texts = []
    for row in found[:, 1 if encoder else len(asked.ids) :].tolist():
        ends = [at for at, token in enumerate(row) if token in asked.stop]
        texts.append(row[: ends[0]] if ends else row)
    return texts


requests = st.builds(
    GenerationRequest,
    ids=st.lists(st.integers(2, 39), min_size=1, max_size=6).map(tuple),
    max_new_tokens=st.integers(1, 12),
    beams=st.integers(2, 4),
    length_penalty=st.sampled_from([1.0, 0.0, -1.0, 2.0, 0.6]),
    early_stopping=st.booleans(),
    stop=st.lists(st.integers(0, 39), max_size=8, unique=True).map(tuple),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.5]),
    no_repeat_ngram=st.sampled_from([0, 0, 0, 2]),
    forced_last=st.sampled_from([None, None, 3]),
    suppress=st.sampled_from([(), (), (2, 9)]),
).flatmap(
    lambda one: st.builds(
        lambda n, least: GenerationRequest(**{**vars(one), "n": n, "min_new_tokens": least}),
        st.integers(1, one.beams),
        st.integers(0, min(3, one.max_new_tokens)) if one.stop else st.just(0),
    )
)


def assert_same(asked: GenerationRequest, told: dict[tuple[int, int], list[Token]], wanted: list[list[int]]) -> None:
    """Where forced tokens leave fewer texts than were asked for, the rest is nothing here, and any tokens there."""
    found = [tokens(told[0, n]) for n in range(asked.n) if told[0, n][-1].logprob > -np.inf]
    assert found == wanted[: len(found)]
    assert len(found) == asked.n or asked.forced_first is not None or asked.forced_last is not None


@settings(max_examples=50, deadline=None, derandomize=True)
@given(requests, st.integers(0, 5))
def test_beams_are_those_of_transformers(asked: GenerationRequest, seed: int) -> None:
    loop = DecodingLoop(RecomputingDecoder(llama(seed)))
    loop.submit(asked)
    assert_same(asked, drain(loop), by_transformers(llama(seed), asked))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(requests, st.integers(0, 3), st.sampled_from([None, None, 5]))
def test_beams_of_an_encoder_decoder_are_those_of_transformers(
    asked: GenerationRequest, seed: int, first: int | None
) -> None:
    asked = dataclasses.replace(asked, forced_first=first)
    loop = DecodingLoop(RecomputingDecoder(t5(seed)), decoder_start=0)
    loop.submit(asked)
    assert_same(asked, drain(loop), by_transformers(t5(seed), asked, encoder=True))


def alone(asked: GenerationRequest) -> list[list[int]]:
    loop = DecodingLoop(FakeDecoder(slots=6))
    loop.submit(asked)
    return [tokens(events) for _, events in sorted(drain(loop).items())]


def mixed(count: int, seed: int) -> list[GenerationRequest]:
    rng = np.random.default_rng(seed)
    made = []
    for variant in range(count):
        width = int(rng.integers(1, 5))
        searched = {"beams": width, "n": int(rng.integers(1, width + 1))} if width > 1 else {"temperature": 1.0, "n": 2}
        made.append(
            GenerationRequest(
                tuple(int(i) for i in rng.integers(8, 64, rng.integers(1, 12))), max_new_tokens=int(rng.integers(1, 12)), variant=variant,
                stop=tuple(int(i) for i in rng.integers(8, 64, 6)), **searched,
            )
        )  # fmt: skip
    return made


def test_beams_run_beside_others_join_leave_and_are_cancelled() -> None:
    rng = np.random.default_rng(0)
    for trial in range(15):
        decoder = FakeDecoder(slots=6)
        loop = DecodingLoop(decoder, prefill_tokens=int(rng.integers(1, 9)))
        waiting, asked, cancelled = mixed(8, trial), {}, set()
        told: dict[tuple[int, int], list[Token]] = {}
        while waiting:
            new = waiting.pop()
            asked[loop.submit(new)] = new
            for _, event in zip(range(int(rng.integers(0, 9))), loop.events(), strict=False):
                told.setdefault((event.request, event.sample), []).append(event)
            if rng.random() < 0.3:
                gone = int(rng.choice(list(asked))), int(rng.integers(0, 2))
                loop.cancel(*gone)
                cancelled.add(gone)
        for key, events in drain(loop).items():
            told.setdefault(key, []).extend(events)
        assert set(told) == {(number, sample) for number, one in asked.items() for sample in range(one.n)}
        for (number, sample), events in told.items():
            wanted, found = alone(asked[number])[sample], tokens(events)
            assert [e.finish is not None for e in events] == [False] * (len(events) - 1) + [True]
            assert found == wanted or ((number, sample) in cancelled and found == wanted[: len(found)])
        assert decoder.held == set()


def test_texts_are_given_out_at_the_end_best_first_with_the_models_logprobs() -> None:
    decoder = FakeDecoder(slots=4)
    loop = DecodingLoop(decoder)
    loop.submit(GenerationRequest((8, 9), max_new_tokens=4, beams=4, n=3))
    told = drain(loop)
    assert len(decoder.calls) == sum(method != "free" for method, _ in decoder.calls) + 1
    sums = [sum(event.logprob for event in told[0, n]) for n in range(3)]
    assert sums == sorted(sums, reverse=True)
    for events in told.values():
        fed = FakeDecoder().prefill([{"input_ids": np.array([8, 9, *tokens(events)[:-1]])}], [0]).astype(np.float64)[0]
        assert events[-1].logprob == pytest.approx(fed[events[-1].token] - np.log(np.exp(fed).sum()), abs=1e-5)


def test_of_equal_continuations_the_better_beams_and_then_the_smallest_ids_go_on() -> None:
    search = BeamSearch(Chooser(GenerationRequest((1,), beams=3, max_new_tokens=4)), [5, 6, 7], None)
    level = Logits.of(np.zeros((3, 4), np.float32))
    assert search.take(level, [0]) == ([5, 5], [6, 7])
    assert [(beam.tokens, beam.slot) for beam in search.running] == [((0,), 5), ((1,), 6), ((2,), 7)]
    assert search.take(level, [0, 1, 2]) == ([5, 5], [6, 7])
    assert [beam.tokens for beam in search.running] == [(0, 0), (0, 1), (0, 2)]


def test_only_beams_that_share_a_parent_are_copied() -> None:
    search = BeamSearch(Chooser(GenerationRequest((1,), beams=2, max_new_tokens=4)), [0, 1], None)
    search.take(Logits.of(np.array([[3, 2, 0, 0]], np.float32)), [0])
    rows = np.array([[5, 0, 0, 0], [0, 9, 0, 0]], np.float32)
    assert search.take(Logits.of(rows), [0, 1]) == ([], [])
    assert {beam.tokens: beam.slot for beam in search.running} == {(0, 0): 0, (1, 1): 1}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"beams": 0}, "beams is 0, expected 1 (no search) to 4, the slots there are"),
        ({"beams": 5}, "beams is 5, expected 1 (no search) to 4, the slots there are"),
        ({"beams": 2, "n": 3}, "n 3 of 2 beams; ask for no more than there are beams"),
        ({"beams": 2, "temperature": 0.5}, "beams 2 with temperature 0.5; beam search draws nothing, leave one out"),
        ({"beams": 2, "length_penalty": 99.0}, "length_penalty is 99.0, expected -10 to 10; 0 is none"),
        ({"length_penalty": 2.0}, "length_penalty 2 without beams, which alone it is for; set beams or leave it out"),
        ({"early_stopping": True}, "early_stopping without beams, which alone it is for; set beams or leave it out"),
    ],
)
def test_settings_of_beams_that_make_no_sense_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusalError) as caught:
        DecodingLoop(FakeDecoder()).submit(GenerationRequest((8, 9), max_new_tokens=4, **more))
    assert str(caught.value) == f"generation request: {message}"


def search_of(beams: int, **more: Any) -> BeamSearch:
    asked = GenerationRequest((1,), **{"beams": beams, "max_new_tokens": 9, **more})
    return BeamSearch(Chooser(asked), range(beams), None)


def test_as_many_go_on_as_there_are_beams_however_many_end_tokens_are_likelier() -> None:
    search = search_of(2, stop=(0, 1, 2, 3))
    search.take(Logits.of(np.array([[9, 8, 7, 6, 5, 4, 0]], np.float32)), [0])
    assert [beam.tokens for beam in search.running] == [(4,), (5,)]
    assert [found.tokens for found in search.finished] == [(), ()], "the two likeliest of all, which ended"


@pytest.mark.parametrize("early", [False, True])
def test_a_search_goes_on_while_it_may_better_what_is_finished_unless_it_stops_early(early: bool) -> None:
    search = search_of(2, stop=(0,), early_stopping=early)
    search.take(Logits.of(np.array([[1, 0, 2, -9]], np.float32)), [0])
    assert (len(search.finished), search.done) == (1, False)
    rows = np.array([[1, -9, -9, 2], [0, 0, 0, 0]], np.float32)
    search.take(Logits.of(rows), [0, 1])
    assert [found.tokens for found in search.finished] == [(2,), ()]
    assert search.running[0].tokens == (2, 3), "likelier than what has ended"
    assert search.done == early
    assert search.best(2) == search.finished
