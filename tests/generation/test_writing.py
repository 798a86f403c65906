"""Tokens to text: what is streamed, joined, equals what is returned, and what decoding all tokens gives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generation.tokenizers_small import KINDS, TEXTS, processor
from spcore.errors import RefusalError
from spcore.generation import DecodingLoop
from spcore.interfaces.runtime import GenerationRequest, Token
from spcore.testing.fakes import FakeDecoder
from spcore.writing import Decoding, Piece, pieces, write

QUICK = settings(max_examples=150, deadline=None, derandomize=True)


class Scripted:
    """Generates answers that were written before; samples take turns."""

    admission = "continuous"

    def __init__(self, *answers: Sequence[Sequence[int]], finish: str = "length") -> None:
        self.answers, self.finish = list(answers), finish
        self.cancelled: set[tuple[int, int]] = set()
        self.told: list[Token] = []
        self._asked: list[GenerationRequest] = []

    def submit(self, request: GenerationRequest) -> int:
        self._asked.append(request)
        return len(self._asked) - 1

    def cancel(self, request: int, sample: int | None = None) -> None:
        which = range(self._asked[request].n) if sample is None else [sample]
        self.cancelled |= {(request, n) for n in which}

    def events(self) -> Iterator[Token]:
        for event in self._events():
            self.told.append(event)
            yield event

    def _events(self) -> Iterator[Token]:
        left = {(n, k): list(ids) for n, own in enumerate(self.answers) for k, ids in enumerate(own)}
        while left:
            for key, ids in list(left.items()):
                if key in self.cancelled:
                    del left[key]
                    yield Token(*key, -1, 0.0, "cancelled")
                elif len(ids) > 1:
                    yield Token(*key, ids.pop(0), -0.5)
                else:
                    del left[key]
                    yield Token(*key, ids[0] if ids else -1, -0.5 if ids else 0.0, self.finish)  # type: ignore[arg-type]


def asked(n: int = 1, **more: Any) -> GenerationRequest:
    return GenerationRequest((5, 6, 7), n=n, **more)


def joined(found: Sequence[Piece], request: int = 0, sample: int = 0) -> str:
    return "".join(piece.text for piece in found if (piece.request, piece.sample) == (request, sample))


def decoded(kind: str, ids: Sequence[int]) -> tuple[str, list[str]]:
    decoding = Decoding(processor(kind))
    parts = [*(decoding.put(token) for token in ids), decoding.end()]
    return "".join(parts), parts


def ids_of(kind: str) -> st.SearchStrategy[list[int]]:
    """With some that a model has beyond its tokenizer's, which decode to nothing."""
    return st.lists(st.integers(0, processor(kind).vocabulary_size + 1), max_size=40)


def broken(kind: str, ids: Sequence[int]) -> bool:
    """Whether a run of bytes that a tokenizer fell back to is no text."""
    found = [processor(kind).tokenizer.id_to_token(i) for i in ids if i not in processor(kind).special_ids]
    names = [name for name in found if name is not None]
    runs = "".join(name[3:5] if name.startswith("<0x") else "|" for name in names).split("|")
    with contextlib.suppress(UnicodeDecodeError):
        for run in runs:
            bytes.fromhex(run).decode()
        return False
    return True


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "byte-fallback"])
def test_what_is_given_out_is_the_text_of_any_tokens(kind: str) -> None:
    @QUICK
    @given(ids_of(kind))
    def check(ids: list[int]) -> None:
        assert decoded(kind, ids)[0] == processor(kind).decode(ids)

    check()


def test_tokens_that_decode_to_nothing_are_no_context_for_the_next() -> None:
    metaspace = processor("metaspace")
    hello = [int(i) for i in metaspace.encode("hello").arrays["input_ids"]]
    ids = [*hello, *([metaspace.vocabulary_size] * 3), *hello]
    assert metaspace.decode(ids) == "hello hello"
    assert decoded("metaspace", ids)[0] == "hello hello"


@QUICK
@given(ids_of("byte-fallback"))
def test_bytes_that_were_fallen_back_to(ids: list[int]) -> None:
    if not broken("byte-fallback", ids):
        assert decoded("byte-fallback", ids)[0] == processor("byte-fallback").decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [*TEXTS, "好" * 30, "🙂🙂", "x\n\n y", "世界 the cat"])
def test_texts_come_whole_and_no_piece_holds_half_a_character(kind: str, text: str) -> None:
    ids = [int(i) for i in processor(kind).encode(text).arrays["input_ids"]]
    found, parts = decoded(kind, ids)
    assert found == processor(kind).decode(ids)
    assert not any("\ufffd" in part for part in parts)


def test_characters_come_as_soon_as_their_last_byte() -> None:
    raw = [processor("byte-fallback").tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "你🙂".encode()]
    assert decoded("byte-fallback", raw)[1] == ["", "", "你", "", "", "", "🙂", ""]


def test_bytes_at_the_end_that_are_no_character_are_given_out_as_decoding_does() -> None:
    byte_level = processor("byte-level")
    ids = [int(i) for i in byte_level.encode("ok🙂").arrays["input_ids"]][:-1]
    assert byte_level.decode(ids).endswith("\ufffd")
    assert decoded("byte-level", ids)[0] == byte_level.decode(ids)
    raw = [processor("byte-fallback").tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "你".encode()]
    assert decoded("byte-fallback", [*raw, raw[0]])[0] == "你\ufffd", "decoding all would take the character back"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token", ["e", "<pad>", "<0xE4>"])
def test_a_long_answer_costs_no_more_a_token_than_a_short_one(kind: str, token: str) -> None:
    class Counting:
        special_ids = processor(kind).special_ids
        fed = 0

        def decode(self, ids: Sequence[int]) -> str:
            Counting.fed += len(ids)
            return processor(kind).decode(ids)

    found = processor(kind).tokenizer.token_to_id(token)
    number = 4 if found is None else found
    decoding = Decoding(Counting())  # type: ignore[arg-type]
    for _ in range(2000):
        decoding.put(number)
    assert Counting.fed < 2000 * 12


# Stop strings


def by_definition(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The stop string that is complete first, read character by character; of several, the longest."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
def test_stop_strings_end_a_text_exactly_before_them(kind: str) -> None:
    letters = "ab你🙂 \n"

    @QUICK
    @given(st.text(letters, max_size=25), st.lists(st.text(letters, min_size=1, max_size=4), max_size=3))
    def check(text: str, stops: list[str]) -> None:
        ids = [int(i) for i in processor(kind).encode(text).arrays["input_ids"]]
        text = processor(kind).decode(ids)
        wanted, stopped = by_definition(text, stops)
        (found,) = write(Scripted([ids]), processor(kind), [asked()], stop_strings=stops)[0]
        assert found.text == wanted
        assert found.finish == ("stop" if stopped else "length")
        streamed = list(pieces(Scripted([ids]), processor(kind), [asked()], stop_strings=stops))
        assert joined(streamed) == wanted
        assert [piece.finish for piece in streamed] == [None] * (len(streamed) - 1) + [found.finish]

    check()


def test_ids_of_a_stopped_text_end_with_the_token_that_completed_the_string() -> None:
    byte_level = processor("byte-level")
    ids = [int(i) for i in byte_level.encode("hello world. The cat").arrays["input_ids"]]
    generator = Scripted([ids])
    (found,) = write(generator, byte_level, [asked()], stop_strings=["wor", "cat"])[0]
    assert found.text == "hello "
    assert "wor" in byte_level.decode(found.ids)
    assert "wor" not in byte_level.decode(found.ids[:-1])
    assert found.logprob == -0.5 * len(found.ids)
    assert found.prompt_tokens == 3
    assert len(generator.told) == len(found.ids) + 1, "the rest was cancelled"


@pytest.mark.parametrize(("stops", "text"), [(["v", "ive"], "negati"), (["ve", "ive"], "negat"), (["iv", "at"], "neg")])
def test_of_stop_strings_in_one_token_the_first_that_is_complete_counts(stops: list[str], text: str) -> None:
    byte_level = processor("byte-level")
    ids = [int(i) for i in byte_level.encode("negative").arrays["input_ids"]]
    assert "ive" in [byte_level.decode([token]) for token in ids]
    assert by_definition("negative", stops) == (text, True)
    assert write(Scripted([ids]), byte_level, [asked()], stop_strings=stops)[0][0].text == text


def test_a_stopped_sample_ends_alone() -> None:
    byte_level = processor("byte-level")
    long, short = (
        [int(i) for i in byte_level.encode(text).arrays["input_ids"]]
        for text in ("a cat is a cat is a cat", "a dog! " * 9)
    )
    generator = Scripted([long, short])
    first, second = write(generator, byte_level, [asked(n=2)], stop_strings=["!"])[0]
    assert (first.text, first.finish) == ("a cat is a cat is a cat", "length")
    assert (second.text, second.finish) == ("a dog", "stop")
    assert generator.cancelled == {(0, 1), (0, 0)}
    assert len([event for event in generator.told if event.sample == 1]) < len(short) / 2


@pytest.mark.parametrize("held", [["held back"], ["世x"], ["\n\n"]])
def test_what_looks_like_a_stop_string_and_is_none_comes_in_the_end(held: list[str]) -> None:
    byte_level = processor("byte-level")
    ids = [int(i) for i in byte_level.encode("it is held 世\n").arrays["input_ids"]]
    assert joined(list(pieces(Scripted([ids]), byte_level, [asked()], stop_strings=held))) == "it is held 世\n"


def test_an_empty_stop_string_is_refused_before_anything_starts() -> None:
    generator = Scripted([[5]])
    with pytest.raises(RefusalError, match="stop string ''"):
        pieces(generator, processor("byte-level"), [asked()], stop_strings=["x", ""])
    assert generator.told == []


# Over the loop


def loop_over(kind: str, slots: int = 3) -> tuple[DecodingLoop, FakeDecoder]:
    decoder = FakeDecoder(slots=slots, length=64, vocabulary=processor(kind).vocabulary_size)
    return DecodingLoop(decoder), decoder


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_equals_returned_whatever_the_model_writes(kind: str) -> None:
    @settings(QUICK, max_examples=25)
    @given(st.integers(0, 10**6), st.lists(st.text("abeit 世\ufffd", min_size=1, max_size=2), max_size=2))
    def check(seed: int, stops: list[str]) -> None:
        requests = [
            asked(n=2, seed=seed, temperature=2.0, max_new_tokens=30, stop=(1,)), asked(max_new_tokens=20, stop=(1,)),
            asked(n=2, beams=3, max_new_tokens=10, stop=(1,)),
        ]  # fmt: skip
        whole = write(loop_over(kind)[0], processor(kind), requests, stop_strings=stops)
        loop, decoder = loop_over(kind)
        found = list(pieces(loop, processor(kind), requests, stop_strings=stops))
        for place, own in enumerate(whole):
            for sample, written in enumerate(own):
                assert joined(found, place, sample) == written.text
                finals = [one.finish for one in found if (one.request, one.sample) == (place, sample)]
                assert finals == [None] * (len(finals) - 1) + [written.finish]
                if written.finish == "length" and not broken(kind, written.ids):
                    assert written.text == processor(kind).decode(written.ids)
        assert decoder.held == set()

    check()


@settings(QUICK, max_examples=30)
@given(st.integers(0, 30), st.integers(0, 10**6))
def test_closing_the_stream_cancels_what_runs(taken: int, seed: int) -> None:
    loop, decoder = loop_over("byte-level")
    requests = [
        asked(n=2, seed=seed, temperature=2.0, max_new_tokens=40),
        asked(max_new_tokens=40),
        asked(max_new_tokens=3),
    ]
    stream = pieces(loop, processor("byte-level"), requests)
    found = [piece for piece, _ in zip(stream, range(taken), strict=False)]
    stream.close()  # type: ignore[attr-defined]
    assert decoder.held == set()
    assert list(loop.events()) == []
    whole = write(loop_over("byte-level")[0], processor("byte-level"), requests)
    for place, own in enumerate(whole):
        for sample, written in enumerate(own):
            assert written.text.startswith(joined(found, place, sample))


def test_a_refused_request_cancels_those_before_it() -> None:
    loop, decoder = loop_over("byte-level")
    with pytest.raises(RefusalError, match="max_new_tokens is 0"):
        write(loop, processor("byte-level"), [asked(max_new_tokens=9), asked(max_new_tokens=0)])
    assert decoder.calls == []
    assert list(loop.events()) == []


def test_what_somebody_else_cancels_is_said() -> None:
    loop, _ = loop_over("byte-level")
    stream = pieces(loop, processor("byte-level"), [asked(max_new_tokens=40)])
    next(stream)
    loop.cancel(0)
    assert list(stream)[-1].finish == "cancelled"
