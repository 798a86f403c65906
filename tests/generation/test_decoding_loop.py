"""The decoding loop over a decoder whose logits are a function of a slot's whole history."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from spcore.errors import RefusalError, RunError
from spcore.generation import Chooser, DecodingLoop
from spcore.generation.choosing import Logits
from spcore.interfaces.runtime import Generates, GenerationRequest, Token
from spcore.testing.fakes import FakeDecoder

Told = dict[tuple[int, int], list[Token]]


def request(*ids: int, **more: object) -> GenerationRequest:
    return GenerationRequest(ids or (8, 9, 10), **{"max_new_tokens": 6, **more})  # type: ignore[arg-type]


def drain(loop: DecodingLoop) -> Told:
    told: Told = {}
    for event in loop.events():
        told.setdefault((event.request, event.sample), []).append(event)
    return told


def tokens(events: Sequence[Token]) -> list[int]:
    return [event.token for event in events if event.token >= 0]


def reference(asked: GenerationRequest, sample: int, start: tuple[int, ...] = ()) -> list[int]:
    """The request alone, fed whole from the beginning for every token."""
    found: list[int] = []
    while len(found) < asked.max_new_tokens:
        decoder = FakeDecoder(slots=1, length=64, encoder_length=64 if start else 0)
        fed = {"input_ids": np.array([*asked.ids, *([] if start else found)])}
        if start:
            fed["decoder_input_ids"] = np.array([*start, *found])
        token, _ = Chooser(asked, *start).choose(Logits.of(decoder.prefill([fed], [0])), 0, sample=sample, answer=found)
        if token in asked.stop:
            break
        found.append(token)
    return found


def random_requests(count: int, seed: int) -> list[GenerationRequest]:
    rng = np.random.default_rng(seed)
    made = []
    for variant in range(count):
        ids = rng.integers(8, 64, rng.integers(1, 14))
        temperature = float(rng.choice([0.0, 0.8, 2.0]))
        limits = {"top_k": int(rng.choice([0, 5])), "top_p": float(rng.choice([1.0, 0.7]))} if temperature else {}
        made.append(
            GenerationRequest(
                tuple(int(i) for i in ids), max_new_tokens=int(rng.integers(1, 12)), n=int(rng.integers(1, 4)),
                temperature=temperature, **limits, variant=variant, presence_penalty=float(rng.choice([0.0, 1.0])),
                seed=int(rng.integers(0, 1000)), stop=tuple(int(i) for i in rng.integers(8, 64, 6)),
            )
        )  # fmt: skip
    return made


def test_it_is_generates() -> None:
    assert isinstance(DecodingLoop(FakeDecoder()), Generates)
    assert DecodingLoop(FakeDecoder()).admission == "continuous"


@pytest.mark.parametrize("prefill_tokens", [1, 3, 512])
@pytest.mark.parametrize("slots", [3, 5])
def test_a_result_depends_on_the_request_alone(slots: int, prefill_tokens: int) -> None:
    decoder = FakeDecoder(slots=slots, length=32)
    loop = DecodingLoop(decoder, prefill_tokens=prefill_tokens)
    requests = random_requests(12, seed=slots)
    ids = [loop.submit(asked) for asked in requests]
    told = drain(loop)
    for number, asked in zip(ids, requests, strict=True):
        for sample in range(asked.n):
            assert tokens(told[number, sample]) == reference(asked, sample)
    assert decoder.held == set()


def test_a_request_gives_the_same_alone_and_beside_others() -> None:
    busy, alone = DecodingLoop(FakeDecoder()), DecodingLoop(FakeDecoder())
    asked = request(20, 21, temperature=1.5, n=2, seed=5)
    for other in random_requests(5, seed=1):
        busy.submit(other)
    number = busy.submit(asked)
    alone.submit(asked)
    beside = drain(busy)
    assert [tokens(beside[number, n]) for n in (0, 1)] == [tokens(events) for events in drain(alone).values()]


def test_random_joining_and_cancelling_ends_every_sample_once_and_frees_every_slot() -> None:
    rng = np.random.default_rng(0)
    for trial in range(30):
        decoder = FakeDecoder(slots=4, length=32)
        loop = DecodingLoop(decoder, prefill_tokens=int(rng.integers(1, 9)))
        waiting, asked, told = random_requests(10, seed=trial), {}, Told()
        cancelled: set[tuple[int, int]] = set()
        while waiting:
            new = waiting.pop()
            asked[loop.submit(new)] = new
            for _, event in zip(range(int(rng.integers(0, 9))), loop.events(), strict=False):
                told.setdefault((event.request, event.sample), []).append(event)
            if rng.random() < 0.3:
                gone, which = int(rng.choice(list(asked))), [None, 0, 1][rng.integers(3)]
                loop.cancel(gone, which)
                cancelled |= {(gone, n) for n in range(asked[gone].n) if which in (None, n)}
        for key, events in drain(loop).items():
            told.setdefault(key, []).extend(events)
        assert set(told) == {(number, sample) for number, one in asked.items() for sample in range(one.n)}
        for (number, sample), events in told.items():
            assert [e.finish is not None for e in events] == [False] * (len(events) - 1) + [True]
            wanted = reference(asked[number], sample)
            assert tokens(events) == wanted or (
                (number, sample) in cancelled and tokens(events) == wanted[: len(tokens(events))]
            )
            assert events[-1].finish != "cancelled" or (number, sample) in cancelled
        assert decoder.held == set()


def test_a_request_joins_as_soon_as_slots_are_free() -> None:
    decoder = FakeDecoder(slots=2)
    loop = DecodingLoop(decoder)
    loop.submit(request(max_new_tokens=8))
    loop.submit(request(11, 12, max_new_tokens=2))
    third = loop.submit(request(13, max_new_tokens=2))
    order = [event.request for event in loop.events()]
    assert order.index(third) < len(order) - order[::-1].index(0) - 1, "the third ran while the first still did"
    assert max(len(slots) for method, slots in decoder.calls if method == "decode") == 2


def test_requests_are_admitted_in_their_order() -> None:
    loop = DecodingLoop(FakeDecoder(slots=3))
    loop.submit(request(max_new_tokens=4))
    wide = loop.submit(request(11, n=3, max_new_tokens=1))
    small = loop.submit(request(12, max_new_tokens=1))
    first = {event.request: n for n, event in reversed(list(enumerate(loop.events())))}
    assert first[wide] < first[small], "a request of many samples is not overtaken for ever"


def test_samples_share_one_prefill_and_go_their_own_ways() -> None:
    decoder = FakeDecoder(slots=4)
    loop = DecodingLoop(decoder)
    loop.submit(request(n=4, temperature=2.0))
    told = drain(loop)
    assert [method for method, _ in decoder.calls].count("prefill") == 1
    assert ("copy", (0, 0, 0, 1, 2, 3)) in decoder.calls
    assert len({tuple(tokens(events)) for events in told.values()}) == 4


def test_a_long_prompt_does_not_hold_up_the_others() -> None:
    decoder = FakeDecoder(slots=2, length=64)
    loop = DecodingLoop(decoder, prefill_tokens=4)
    loop.submit(request(max_new_tokens=12))
    loop.submit(GenerationRequest(tuple(range(8, 48)), max_new_tokens=2))
    drain(loop)
    methods = [method for method, _ in decoder.calls]
    assert methods.count("prefill") == 11, "40 + 3 tokens, 4 at a time"
    between = [n for n, method in enumerate(methods) if method == "prefill"][1:]
    assert all("decode" in methods[a:b] for a, b in itertools.pairwise(between))


def test_how_samples_end() -> None:
    loop = DecodingLoop(FakeDecoder())
    whole = tokens(drain(loop)[0, 0]) if loop.submit(request()) == 0 else []
    stopping = loop.submit(request(stop=(whole[2],)))
    events = drain(loop)[stopping, 0]
    assert tokens(events) == whole[: whole.index(whole[2])]
    assert (events[-1].token, events[-1].finish) == (-1, "stop")
    assert {event.finish for event in events[:-1]} <= {None}
    long = loop.submit(request(max_new_tokens=3))
    events = drain(loop)[long, 0]
    assert tokens(events) == whole[:3]
    assert [event.finish for event in events] == [None, None, "length"]


def test_logprobs_are_the_models_own() -> None:
    loop = DecodingLoop(FakeDecoder())
    loop.submit(request(temperature=0.7, top_k=3, max_new_tokens=1))
    (event,) = drain(loop)[0, 0]
    logits = FakeDecoder().prefill([{"input_ids": np.array([8, 9, 10])}], [0])[0].astype(np.float64)
    assert event.logprob == pytest.approx(
        logits[event.token] - np.log(np.exp(logits).sum()), abs=1e-5
    )  # the sum is float32


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_cancelling_waiting_filling_and_running_requests(steps: int) -> None:
    decoder = FakeDecoder(slots=2, length=64)
    loop = DecodingLoop(decoder, prefill_tokens=2)
    kept = loop.submit(request(max_new_tokens=9))
    gone = [loop.submit(request(20, 21, 22, 23, 24, max_new_tokens=30)), loop.submit(request(11, n=2))]
    events = loop.events()
    told = [next(events) for _ in range(steps)]
    for number in gone:
        loop.cancel(number)
    told += list(events)
    finals = [(event.request, event.sample, event.finish) for event in told if event.finish]
    assert sorted(finals) == [
        (kept, 0, "length"),
        (gone[0], 0, "cancelled"),
        (gone[1], 0, "cancelled"),
        (gone[1], 1, "cancelled"),
    ]
    assert len(tokens([event for event in told if event.request == kept])) == 9
    assert decoder.held == set()


@pytest.mark.parametrize("steps", [0, 4])
def test_a_sample_is_cancelled_alone_and_gives_its_slot_to_who_waits(steps: int) -> None:
    decoder = FakeDecoder(slots=2)
    loop = DecodingLoop(decoder)
    both = loop.submit(request(n=2, temperature=1.0, max_new_tokens=12))
    waits = loop.submit(request(11, max_new_tokens=1))
    events = loop.events()
    told = [next(events) for _ in range(steps)]
    loop.cancel(both, 1)
    loop.cancel(both, 5)
    told += list(events)
    finals = [(event.request, event.sample, event.finish) for event in told if event.finish]
    assert finals == [(both, 1, "cancelled"), (waits, 0, "length"), (both, 0, "length")]
    assert tokens([e for e in told if e.request == both and e.sample == 0]) == reference(
        request(n=2, temperature=1.0, max_new_tokens=12), 0
    )
    assert decoder.held == set()


def test_cancelling_what_has_ended_or_never_was_does_nothing() -> None:
    loop = DecodingLoop(FakeDecoder())
    number = loop.submit(request(max_new_tokens=1))
    drain(loop)
    loop.cancel(number)
    loop.cancel(99)
    assert list(loop.events()) == []
    loop.submit(request(max_new_tokens=1))
    assert [event.finish for event in loop.events()] == ["length"]


def test_leaving_events_loses_nothing() -> None:
    whole, parts = DecodingLoop(FakeDecoder()), DecodingLoop(FakeDecoder())
    for loop in (whole, parts):
        for asked in random_requests(4, seed=3):
            loop.submit(asked)
    wanted, found = list(whole.events()), []
    while len(found) < len(wanted):
        for event in parts.events():
            found.append(event)
            break
    assert found == wanted
    assert list(parts.events()) == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (GenerationRequest(()), "generation request: ids is no token, expected at least one prompt token"),
        (request(max_new_tokens=0), "generation request: max_new_tokens is 0, expected 1 or more"),
        (request(n=5), "generation request: n is 5, expected 1 to 4, the slots there are"),
        (request(temperature=-1), "generation request: temperature is -1, expected 0 (greedy) to 1e+06"),
        (request(temperature=float("nan")), "generation request: temperature is nan, expected 0 (greedy) to 1e+06"),
        (request(temperature=1e300), "generation request: temperature is 1e+300, expected 0 (greedy) to 1e+06"),
        (request(top_k=-1), "generation request: top_k is -1, expected 0 (no limit) or more"),
        (request(top_p=0), "generation request: top_p is 0, expected more than 0, at most 1 (no limit)"),
        (request(min_p=1.5), "generation request: min_p is 1.5, expected 0 (no limit) to 1"),
        (
            request(repetition_penalty=0),
            "generation request: repetition_penalty is 0, expected 1e-06 to 1e+06; 1 is none",
        ),
        (
            request(presence_penalty=math.nan),
            "generation request: presence_penalty is nan, expected -1e+06 to 1e+06; 0 is none",
        ),
        (
            request(frequency_penalty=math.inf),
            "generation request: frequency_penalty is inf, expected -1e+06 to 1e+06; 0 is none",
        ),
        (request(no_repeat_ngram=-1), "generation request: no_repeat_ngram is -1, expected 0 (no limit) or more"),
        (request(min_new_tokens=7), "generation request: min_new_tokens is 7, expected 0 to 6, max_new_tokens"),
        (
            request(top_k=5),
            "generation request: top_k 5 with temperature 0, which draws nothing; set a temperature or leave top_k out",
        ),
        (
            request(top_p=0.9),
            "generation request: top_p 0.9 with temperature 0, which draws nothing; set a temperature or leave top_p out",
        ),
        (
            request(min_p=0.1),
            "generation request: min_p 0.1 with temperature 0, which draws nothing; set a temperature or leave min_p out",
        ),
        (
            request(min_new_tokens=2, grammar=object()),
            "generation request: min_new_tokens 2 with a constraint, which alone says where a text may end; leave one out",
        ),
        (
            request(forced_last=3, grammar=object()),
            "generation request: forced_last 3 with a constraint, which alone says where a text may end; leave one out",
        ),
        (
            request(max_new_tokens=31),
            "generation request: 3 prompt tokens and 31 new ones do not fit 32 positions; lower max_new_tokens to at most 30",
        ),
        (
            GenerationRequest(tuple(range(8, 42)), max_new_tokens=1),
            "generation request: 34 prompt tokens and 1 new ones do not fit 32 positions; shorten the prompt to at most 32 tokens",
        ),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(asked: GenerationRequest, message: str) -> None:
    loop = DecodingLoop(FakeDecoder())
    with pytest.raises(RefusalError) as caught:
        loop.submit(asked)
    assert str(caught.value) == message
    assert list(loop.events()) == []


def test_a_slot_is_used_to_its_last_position() -> None:
    decoder = FakeDecoder(length=32)
    loop = DecodingLoop(decoder)
    loop.submit(request(max_new_tokens=30))
    assert len(tokens(drain(loop)[0, 0])) == 30


def test_prefill_tokens_below_one_are_refused() -> None:
    with pytest.raises(RefusalError, match="prefill_tokens 0"):
        DecodingLoop(FakeDecoder(), prefill_tokens=0)


@pytest.mark.parametrize("method", ["prefill", "decode", "copy"])
def test_an_error_of_the_decoder_frees_every_slot(method: str) -> None:
    class Broken(FakeDecoder):
        broken = False

        def __getattribute__(self, name: str) -> object:
            if name == method and object.__getattribute__(self, "broken"):
                raise MemoryError("out of memory")
            return super().__getattribute__(name)

    decoder = Broken()
    loop = DecodingLoop(decoder)
    loop.submit(request(max_new_tokens=20))
    events = loop.events()
    for _ in range(3):
        next(events)
    decoder.broken = True
    loop.submit(request(11, n=2))
    with pytest.raises(MemoryError):
        list(events)
    assert decoder.held == set()
    decoder.broken = False
    number = loop.submit(request())
    assert tokens(drain(loop)[number, 0]) == reference(request(), 0)


def test_logits_that_are_not_finite_are_an_error_that_names_the_request() -> None:
    class Broken(FakeDecoder):
        def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
            return super().decode(ids, slots) * np.nan

    decoder = Broken()
    loop = DecodingLoop(decoder)
    loop.submit(request())
    with pytest.raises(RunError, match="request 0: the model's logits are not finite"):
        list(loop.events())
    assert decoder.held == set()


def test_close_empties_all_slots_and_may_be_repeated() -> None:
    decoder = FakeDecoder()
    loop = DecodingLoop(decoder, prefill_tokens=2)
    for asked in random_requests(4, seed=2):
        loop.submit(asked)
    next(iter(loop.events()))
    loop.close()
    loop.close()
    assert decoder.held == set()
    assert list(loop.events()) == []


def test_encoder_decoders_get_the_prompt_in_the_encoder() -> None:
    decoder = FakeDecoder(slots=3, length=16, encoder_length=24)
    loop = DecodingLoop(decoder, prefill_tokens=2, decoder_start=4)
    requests = [request(*range(8, 28), max_new_tokens=16), request(30, 31, n=2, temperature=1.0)]
    ids = [loop.submit(asked) for asked in requests]
    told = drain(loop)
    for number, asked in zip(ids, requests, strict=True):
        for sample in range(asked.n):
            assert tokens(told[number, sample]) == reference(asked, sample, start=(4,))
    with pytest.raises(RefusalError, match="25 prompt tokens, the encoder takes 24"):
        loop.submit(request(*range(8, 33)))
    with pytest.raises(RefusalError, match="lower max_new_tokens to at most 16"):
        loop.submit(request(8, max_new_tokens=17))


def test_requests_may_come_from_other_threads() -> None:
    loop = DecodingLoop(FakeDecoder(slots=2))
    ids: list[int] = []

    def submitting() -> None:
        for asked in random_requests(20, seed=7):
            if asked.n <= 2:
                ids.append(loop.submit(asked))

    threads = [threading.Thread(target=submitting) for _ in range(3)]
    for thread in threads:
        thread.start()
    finals: list[int] = []
    while any(thread.is_alive() for thread in threads) or len(set(finals)) < len(ids):
        finals += [event.request for event in loop.events() if event.finish]
    for thread in threads:
        thread.join()
    finals += [event.request for event in loop.events() if event.finish]
    assert sorted(set(finals)) == sorted(ids)
    assert len(set(ids)) == len(ids)
