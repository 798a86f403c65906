"""Abilities `Decodes` and `Generates`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spcore.errors import RefusalError
from spcore.interfaces.runtime import Crops, Decodes, Generates, GenerationRequest, Token
from spcore.testing.checks import Check, DoesNotApply, Wrong, check, shown
from spcore.testing.contracts import against

_PROMPTS = ((8, 9, 10, 11, 12), (13, 14), (15, 16, 17, 18))


def _rows(
    decoder: Decodes, prompts: Sequence[Sequence[int]], *, of: Sequence[int] = (0, 1, 2), first: bool = True
) -> list[dict[str, np.ndarray]]:
    """Rows to feed. of: the prompt that each begins as, which an encoder is given. first: whether these are first chunks."""
    made = []
    for ids, n in zip(prompts, of, strict=False):
        fed = np.array(ids, np.int64)
        if not decoder.capacity[2]:
            made.append({"input_ids": fed})
        else:
            source = {"input_ids": np.array(_PROMPTS[n], np.int64)} if first else {}
            made.append({**source, "decoder_input_ids": fed})
    return made


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-3, atol=1e-3))


@check("decodes.contract", "it has the members of Decodes, and a capacity of three numbers", gate=True)
def decodes_contract(decoder: Any) -> Iterator[Wrong]:
    """slots, length, encoder length."""
    yield from against(decoder, Decodes, "decoder")
    capacity = getattr(decoder, "capacity", None)
    if not isinstance(capacity, tuple) or len(capacity) != 3 or min(capacity[:2]) < 1:
        yield Wrong(f"capacity {shown(capacity)}", "(slots, length of a slot, length of an encoder's input)")
        return
    if capacity[0] < 4 or capacity[1] < 8 or 0 < capacity[2] < 5:
        yield Wrong(f"capacity {capacity}", "4 slots of 8 tokens, 5 of an encoder's input, which the checks need")


@check("decodes.prefill", "a prompt gives the same logits alone, beside others, and in chunks", gate=True)
def decodes_prefill(decoder: Decodes) -> Iterator[Wrong]:
    """Three ragged prompts."""
    together = decoder.prefill(_rows(decoder, _PROMPTS), [0, 1, 2])
    if together.dtype != np.float32 or together.ndim != 2 or len(together) != 3:
        yield Wrong(f"logits {together.dtype} {together.shape}", "float32 [slots, vocabulary]")
        return
    decoder.free([0, 1, 2])
    for n, prompt in enumerate(_PROMPTS):
        if not _same(decoder.prefill(_rows(decoder, [prompt], of=[n]), [3]), together[n : n + 1]):
            yield Wrong(f"prompt {n} gives other logits alone than beside others", "the same logits")
        decoder.free([3])
    decoder.prefill(_rows(decoder, [_PROMPTS[0][:2]]), [1])
    if not _same(decoder.prefill(_rows(decoder, [_PROMPTS[0][2:]], first=False), [1]), together[:1]):
        yield Wrong("a prompt in two chunks gives other logits than in one", "the same logits")
    decoder.free([1])


@check("decodes.decode", "a token that is decoded gives the logits of the longer prompt")
def decodes_decode(decoder: Decodes) -> Iterator[Wrong]:
    """Two slots, in another order."""
    decoder.prefill(_rows(decoder, _PROMPTS[:2]), [2, 0])
    decoded = decoder.decode([19, 20], [0, 2])
    decoder.free([0, 2])
    whole = decoder.prefill(_rows(decoder, [(*_PROMPTS[1], 19), (*_PROMPTS[0], 20)], of=[1, 0]), [0, 1])
    decoder.free([0, 1])
    if not _same(decoded, whole):
        yield Wrong("other logits after a decoded token than after a prompt that ends in it", "the same logits")


@check("decodes.copy", "copies are simultaneous, and go their own ways")
def decodes_copy(decoder: Decodes) -> Iterator[Wrong]:
    """Two slots swapped."""
    decoder.prefill(_rows(decoder, _PROMPTS[:2]), [0, 1])
    decoder.copy([0, 1, 0], [1, 0, 2])
    decoded = decoder.decode([19, 19, 20], [0, 1, 2])
    decoder.free([0, 1, 2])
    turned = [(*_PROMPTS[1], 19), (*_PROMPTS[0], 19), (*_PROMPTS[0], 20)]
    wanted = decoder.prefill(_rows(decoder, turned, of=[1, 0, 0]), [0, 1, 2])
    decoder.free([0, 1, 2])
    if not _same(decoded, wanted):
        yield Wrong("other logits after copy([0, 1, 0], [1, 0, 2])", "all sources read before any target is written")


@check("decodes.crop", "a slot that is cropped is as good as one that was fed its first tokens")
def decodes_crop(decoder: Decodes) -> Iterator[Wrong]:
    """Of what can crop and has no encoder: a slot and its copy, the copy cropped."""
    if not isinstance(decoder, Crops) or decoder.capacity[2]:
        raise DoesNotApply
    decoder.prefill(_rows(decoder, _PROMPTS[:1]), [0])
    decoder.copy([0], [1])
    decoder.crop([1], [2])
    decoded = decoder.decode([19, 19], [1, 0])
    decoder.free([0, 1])
    wanted = decoder.prefill(_rows(decoder, [(*_PROMPTS[0][:2], 19), (*_PROMPTS[0], 19)]), [0, 1])
    decoder.free([0, 1])
    if not _same(decoded, wanted):
        yield Wrong("other logits after crop([1], [2])", "those of the first two tokens, and the other slot as it was")


@check("decodes.free", "a slot that was freed is as good as new")
def decodes_free(decoder: Decodes) -> Iterator[Wrong]:
    """Used, freed, used again."""
    fresh = decoder.prefill(_rows(decoder, [_PROMPTS[2]], of=[2]), [3])
    decoder.decode([19], [3])
    decoder.free([3])
    again = decoder.prefill(_rows(decoder, [_PROMPTS[2]], of=[2]), [3])
    decoder.free([3])
    if not _same(fresh, again):
        yield Wrong("other logits in a slot that was used before", "the same logits")


@check("generates.contract", "it has the members of Generates", gate=True)
def generates_contract(generator: Any) -> Iterator[Wrong]:
    """admission is one of two words."""
    yield from against(generator, Generates, "generator")
    if getattr(generator, "admission", None) not in ("continuous", "batch"):
        yield Wrong(f"admission {shown(getattr(generator, 'admission', None))}", "'continuous' or 'batch'")


@check("generates.ends", "each sample ends in exactly one final event, within max_new_tokens", gate=True)
def generates_ends(generator: Generates) -> Iterator[Wrong]:
    """Three requests, one of two samples."""
    requests = [GenerationRequest(ids, max_new_tokens=3 + n, n=1 + n % 2) for n, ids in enumerate(_PROMPTS)]
    told = _run(generator, requests)
    for n, request in enumerate(requests):
        for sample in range(request.n):
            events = told.get((n, sample), [])
            finals = [at for at, event in enumerate(events) if event.finish is not None]
            if finals != [len(events) - 1] or not events:
                yield Wrong(f"request {n}, sample {sample}: final events at {finals} of {len(events)}", "one, the last")
                continue
            tokens = [event.token for event in events if event.token >= 0]
            if len(tokens) > request.max_new_tokens:
                yield Wrong(f"{len(tokens)} tokens with max_new_tokens={request.max_new_tokens}", "that many at most")
            if events[-1].finish == "length" and len(tokens) != request.max_new_tokens:
                yield Wrong(f"finish 'length' after {len(tokens)} of {request.max_new_tokens} tokens", "all of them")


@check("generates.alone", "a request gives the same tokens alone and beside others")
def generates_alone(generator: Generates) -> Iterator[Wrong]:
    """Greedy."""
    requests = [GenerationRequest(ids, max_new_tokens=5) for ids in _PROMPTS]
    together = _run(generator, requests)
    for n, request in enumerate(requests):
        alone = [event.token for event in _run(generator, [request])[0, 0]]
        beside = [event.token for event in together[n, 0]]
        if alone != beside:
            yield Wrong(f"tokens {beside} beside others, {alone} alone", "the same tokens")


@check("generates.cancels", "a cancelled request still ends in a final event, and the others go on")
def generates_cancels(generator: Generates) -> Iterator[Wrong]:
    """Before the first event."""
    kept = generator.submit(GenerationRequest(_PROMPTS[0], max_new_tokens=4))
    gone = generator.submit(GenerationRequest(_PROMPTS[1], max_new_tokens=4))
    generator.cancel(gone)
    events = list(generator.events())
    finals = {event.request: event.finish for event in events if event.finish is not None}
    if finals.get(gone) != "cancelled" or finals.get(kept) not in ("length", "stop"):
        yield Wrong(
            f"final events {finals} with request {gone} cancelled", f"'cancelled' for {gone}, the other to its end"
        )


@check("generates.cancels-samples", "a sample that is cancelled ends alone")
def generates_cancels_samples(generator: Generates) -> Iterator[Wrong]:
    """The second of two, before the first event."""
    number = generator.submit(GenerationRequest(_PROMPTS[0], max_new_tokens=4, n=2, temperature=1.0))
    generator.cancel(number, 1)
    finals = {event.sample: event.finish for event in generator.events() if event.finish is not None}
    if finals.get(1) != "cancelled" or finals.get(0) not in ("length", "stop"):
        yield Wrong(f"final events {finals} with sample 1 cancelled", "'cancelled' for 1, the other to its end")


@check("generates.draws", "a drawn sample is the same alone, beside others and after them")
def generates_draws(generator: Generates) -> Iterator[Wrong]:
    """Temperature 1; equal prompts are told apart by their variant."""
    requests = [GenerationRequest(_PROMPTS[0], max_new_tokens=6, temperature=1.0, variant=n) for n in range(4)]
    told = _run(generator, requests)
    together = [[event.token for event in told[n, 0]] for n in range(4)]
    alone = [[event.token for event in _run(generator, [request])[0, 0]] for request in requests]
    if together != alone:
        yield Wrong(f"tokens {together} beside others, {alone} alone", "the same tokens")
    if all(tokens == alone[0] for tokens in alone):
        yield Wrong(f"the same tokens {alone[0]} for four variants", "draws that differ")


@check("generates.refuses", "a request that can never run is a RefusalError of one line")
def generates_refuses(generator: Generates) -> Iterator[Wrong]:
    """More tokens than any model has positions."""
    try:
        request = generator.submit(GenerationRequest(_PROMPTS[0], max_new_tokens=10**9))
    except RefusalError as error:
        if "\n" in str(error):
            yield Wrong(f"the message {shown(str(error))}", "one line")
        return
    generator.cancel(request)
    list(generator.events())
    yield Wrong("a request of 1,000,000,000 tokens that was taken", "a RefusalError at submit")


def _run(generator: Generates, requests: Sequence[GenerationRequest]) -> dict[tuple[int, int], list[Token]]:
    """(place among the requests, sample) -> events."""
    ids = [generator.submit(request) for request in requests]
    told: dict[tuple[int, int], list[Token]] = {}
    for event in generator.events():
        told.setdefault((ids.index(event.request), event.sample), []).append(event)
    return told


DECODES_CHECKS: tuple[Check, ...] = (
    decodes_contract,
    decodes_prefill,
    decodes_decode,
    decodes_copy,
    decodes_crop,
    decodes_free,
)
GENERATES_CHECKS: tuple[Check, ...] = (
    generates_contract, generates_ends, generates_alone, generates_cancels, generates_cancels_samples, generates_draws, generates_refuses,
)  # fmt: skip
