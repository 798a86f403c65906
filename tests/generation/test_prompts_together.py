"""Ranks of unequal work over a decoder whose calls are collective: all make the same calls at once, each gets what it would alone."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spcore.errors import DataError
from spcore.generation import DecodingLoop
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.runtime import GenerationRequest
from spcore.interfaces.task import EvalPart, Limits
from spcore.prompting import Questions, Together, requests, with_answers
from spcore.rows import RoleSource
from spcore.testing.fakes import FakeDecoder, FakeLanguageModel, FakeProcessor, FakePrompted
from spcore.testing.fakes.data import FakeSource

SECONDS = 60


class Ranks:
    """Threads that meet: `agree`, and a decoder that none calls alone. calls: of each rank, in order."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier = size, threading.Barrier(size, timeout=SECONDS)
        self.codes, self.calls = [0] * size, [list[str]() for _ in range(size)]

    def agree(self, rank: int, code: int) -> int:
        self.codes[rank] = code
        self.barrier.wait()
        largest = max(self.codes)
        self.barrier.wait()
        return largest

    def met(self, rank: int, what: str) -> None:
        self.calls[rank].append(what)
        self.barrier.wait()


class Collective(FakeDecoder):
    def __init__(self, ranks: Ranks, rank: int, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.ranks, self.rank = ranks, rank

    def prefill(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> np.ndarray:
        self.ranks.met(self.rank, "prefill")
        return super().prefill(rows, slots)

    def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        self.ranks.met(self.rank, "decode")
        return super().decode(ids, slots)


def told(loop: DecodingLoop, asked: Sequence[GenerationRequest]) -> list[list[int]]:
    places = {loop.submit(request): n for n, request in enumerate(asked)}
    found: list[list[int]] = [[] for _ in asked]
    for event in loop.events():
        if event.token >= 0:
            found[places[event.request]].append(event.token)
    return found


one = st.builds(
    GenerationRequest, st.lists(st.integers(8, 63), min_size=1, max_size=12).map(tuple), max_new_tokens=st.integers(1, 9),
    beams=st.sampled_from([1, 1, 2]), stop=st.just((9, 10, 11)),
)  # fmt: skip


@given(st.lists(st.lists(one, max_size=5), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_ranks_call_alike_and_get_their_own(work: list[list[GenerationRequest]]) -> None:
    ranks, found = Ranks(len(work)), dict[int, Any]()

    def run(rank: int) -> None:
        decoder = Collective(ranks, rank, slots=3)
        together = Together(decoder, lambda code: ranks.agree(rank, code))
        found[rank] = told(DecodingLoop(together, prefill_tokens=5), work[rank])
        together.finish()
        assert not decoder.held

    threads = [threading.Thread(target=run, args=[rank], daemon=True) for rank in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert sorted(found) == list(range(len(work))), "a rank hangs, or failed"
    assert all(calls == ranks.calls[0] for calls in ranks.calls)
    for rank, own in enumerate(work):
        assert found[rank] == told(DecodingLoop(FakeDecoder(slots=3), prefill_tokens=5), own)


def bound(most: int = 16) -> Any:
    return FakePrompted().bind(FakeProcessor(), None, Schema({}), Limits(max_length=most))


def questions(texts: Sequence[str], limit: int | None = None) -> Questions:
    from spcore.featurizing import featurize

    rows: list[Row] = [{"text": text, "label": 0} for text in texts]
    source = RoleSource(FakeSource(rows), {"text": "text"}, None, None)
    return Questions(source, bound(), featurize(source, bound(), limit=None), limit=limit, model=FakeLanguageModel())


def test_equal_prompts_are_numbered_over_the_whole_data_set() -> None:
    made = questions(["w9", "w10", "w9", "", "w9 w9", "w10"])
    assert made.rows == [0, 1, 2, 4, 5], "a row without features is not asked"
    assert [asked.variant for asked in made.requests] == [0, 0, 1, 0, 1]
    assert questions(["w9", "w10", "w9"], limit=2).rows == [0, 1]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_row_is_somebodys(size: int) -> None:
    made = questions([f"w{9 + n} " * (1 + n % 4) for n in range(10)])
    shares = [made.share(rank, size) for rank in range(size)]
    assert sorted(n for share in shares for n in share) == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_room_and_slots() -> None:
    made = questions(["w9 w10 w11", "w9"])
    assert made.room(encodes=False) == (3 + 4 - 1, 0)
    assert made.room(encodes=True) == (1 + 4 - 1, 3)
    assert made.slots(1, 10_000, encodes=False) == 2, "no more than there are rows"
    assert made.slots(1, 6, encodes=False) == 1
    assert made.slots(1, 1, encodes=False) == 1, "one request at least"


def test_a_row_that_cannot_be_asked_is_named() -> None:
    class Refusing(type(bound())):  # type: ignore[misc]
        def request(self, row: Row) -> GenerationRequest:
            raise DataError("no question", hint="Ask one")

    task = bound()
    task.__class__ = Refusing
    with pytest.raises(DataError, match=r"^a\.csv:7: no question\. Ask one$"):
        requests(task, [{"text": "w9"}], lambda n: "a.csv:7", None)


def test_an_answer_is_in_the_row_of_its_first_feature() -> None:
    part = EvalPart({"loss": 1.0}, [{"feature_id": n, "row_id": row} for n, row in enumerate([4, 4, 7])])
    found = with_answers(part, {4: {"text": "a"}, 7: {"text": "b"}})
    assert [row.get("text") for row in found.rows] == ["a", None, "b"]
    assert found.sums == part.sums
    assert "text" not in part.rows[0], "the part is as it was"
    with pytest.raises(AssertionError, match="by reduce and by answer"):
        with_answers(part, {4: {"feature_id": 3}})
    with pytest.raises(AssertionError, match="a row that has no feature"):
        with_answers(part, {5: {}})
