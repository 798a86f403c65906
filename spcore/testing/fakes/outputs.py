"""Outputs of a model that does not exist: numbers that depend on the tokens alone."""

from __future__ import annotations

import zlib

import numpy as np

from spcore.interfaces.model import Head
from spcore.interfaces.task import Batch
from spcore.testing.fakes.collating import segments_of


def fake_outputs(batch: Batch, head: Head, vocabulary: int) -> dict[str, np.ndarray]:
    """name -> float32 array with the axes of `head.outputs`.

    A sequence's (in packs a segment's) numbers are a function of its own tokens, so they are the same in any batch and at
    any padding; padded positions are 0.
    """
    segments, tokens = segments_of(batch), np.asarray(batch.inputs["input_ids"])
    if "decoder_input_ids" in batch.inputs:  # an encoder-decoder's outputs are the decoder's
        segments, tokens = (np.asarray(batch.inputs[f"decoder_{name}"]) for name in ("attention_mask", "input_ids"))
    pieces = [
        (s, np.flatnonzero(segments[s] == k))
        for s in range(len(segments))
        for k in range(1, int(segments[s].max()) + 1)
    ]
    widths = {"label": head.size, "hidden": head.size, "vocabulary": vocabulary}
    outputs = {}
    for name, axes in head.outputs.items():
        rest = tuple(widths[axis] for axis in axes if axis not in ("sequence", "position"))
        positioned = "position" in axes
        whole = np.zeros((*segments.shape, *rest) if positioned else (len(pieces), *rest), np.float32)
        for n, (s, at) in enumerate(pieces):
            ids = tokens[s, at]
            if positioned:
                whole[s, at] = token_numbers(ids, name, (len(at), *rest))
            else:
                whole[n] = token_numbers(ids, name, rest)
        outputs[name] = whole
    return outputs


def token_numbers(ids: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers of a shape, drawn from tokens and a name alone."""
    content = np.ascontiguousarray(ids, np.int64).tobytes()
    return np.random.default_rng([zlib.crc32(content), zlib.crc32(name.encode())]).standard_normal(shape)
