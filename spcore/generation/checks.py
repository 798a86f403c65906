"""Requests that can never run or make no sense, refused in one line before anything starts."""

from __future__ import annotations

from spcore.errors import RefusalError
from spcore.interfaces.runtime import GenerationRequest

MOST = 1e6
"""Of a temperature or a penalty: scores are float32, and stay numbers."""


def check_request(asked: GenerationRequest, capacity: tuple[int, int, int], decoder_start: int | None) -> None:
    """Raises RefusalError. capacity: of the decoder. decoder_start: as in `DecodingLoop`."""
    _check_values(asked, capacity[0])
    _check_together(asked)
    _check_room(asked, capacity, decoder_start)


def _check_values(asked: GenerationRequest, slots: int) -> None:
    rules: tuple[tuple[str, object, bool, str], ...] = (
        ("ids", "no token", len(asked.ids) > 0, "at least one prompt token"),
        ("max_new_tokens", asked.max_new_tokens, asked.max_new_tokens >= 1, "1 or more"),
        ("n", asked.n, 1 <= asked.n <= slots, f"1 to {slots}, the slots there are"),
        ("temperature", asked.temperature, 0 <= asked.temperature <= MOST, f"0 (greedy) to {MOST:g}"),
        ("top_k", asked.top_k, asked.top_k >= 0, "0 (no limit) or more"),
        ("top_p", asked.top_p, 0 < asked.top_p <= 1, "more than 0, at most 1 (no limit)"),
        ("min_p", asked.min_p, 0 <= asked.min_p <= 1, "0 (no limit) to 1"),
        ("repetition_penalty", asked.repetition_penalty, 1 / MOST <= asked.repetition_penalty <= MOST, f"{1 / MOST:g} to {MOST:g}; 1 is none"),
        ("presence_penalty", asked.presence_penalty, -MOST <= asked.presence_penalty <= MOST, f"{-MOST:g} to {MOST:g}; 0 is none"),
        ("frequency_penalty", asked.frequency_penalty, -MOST <= asked.frequency_penalty <= MOST, f"{-MOST:g} to {MOST:g}; 0 is none"),
        ("beams", asked.beams, 1 <= asked.beams <= slots, f"1 (no search) to {slots}, the slots there are"),
        ("length_penalty", asked.length_penalty, -10 <= asked.length_penalty <= 10, "-10 to 10; 0 is none"),
        ("no_repeat_ngram", asked.no_repeat_ngram, asked.no_repeat_ngram >= 0, "0 (no limit) or more"),
        ("min_new_tokens", asked.min_new_tokens, 0 <= asked.min_new_tokens <= asked.max_new_tokens,
         f"0 to {asked.max_new_tokens}, max_new_tokens"),
    )  # fmt: skip
    for name, found, good, allowed in rules:
        if not good:
            raise RefusalError(f"generation request: {name} is {found}, expected {allowed}")


def _check_together(asked: GenerationRequest) -> None:
    """A setting that would do nothing, or that another one contradicts."""
    greedy = asked.temperature == 0
    for name, found, default in (("top_k", asked.top_k, 0), ("top_p", asked.top_p, 1), ("min_p", asked.min_p, 0)):
        if greedy and found != default:
            raise RefusalError(
                f"generation request: {name} {found} with temperature 0, which draws nothing; set a temperature or leave {name} out"
            )
    if asked.beams > 1 and not greedy:
        raise RefusalError(
            f"generation request: beams {asked.beams} with temperature {asked.temperature:g}; beam search draws nothing, leave one out"
        )
    if 1 < asked.beams < asked.n:
        raise RefusalError(
            f"generation request: n {asked.n} of {asked.beams} beams; ask for no more than there are beams"
        )
    if asked.beams == 1 and (asked.length_penalty != 1 or asked.early_stopping):
        name = "early_stopping" if asked.early_stopping else f"length_penalty {asked.length_penalty:g}"
        raise RefusalError(
            f"generation request: {name} without beams, which alone it is for; set beams or leave it out"
        )
    if asked.grammar is not None:
        for name, setting in (("min_new_tokens", asked.min_new_tokens or None), ("forced_last", asked.forced_last)):
            if setting is not None:
                raise RefusalError(
                    f"generation request: {name} {setting} with a constraint, which alone says where a text may end; leave one out"
                )


def _check_room(asked: GenerationRequest, capacity: tuple[int, int, int], decoder_start: int | None) -> None:
    _, length, encoder_length = capacity
    prompt = len(asked.ids)
    if decoder_start is not None:
        if prompt > encoder_length:
            raise RefusalError(
                f"generation request: {prompt} prompt tokens, the encoder takes {encoder_length}; shorten the prompt"
            )
        prompt = 1
    if prompt + asked.max_new_tokens - 1 > length:  # the last token is given out and not fed
        room = length - prompt + 1
        what = (
            f"lower max_new_tokens to at most {room}" if room > 0 else f"shorten the prompt to at most {length} tokens"
        )
        raise RefusalError(
            f"generation request: {prompt} prompt tokens and {asked.max_new_tokens} new ones do not fit {length} positions; {what}"
        )
