"""What a model is given of a row, as text, and which of its tokens carry loss: what `data inspect` colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.interfaces.model import Processor
from spcore.interfaces.task import Batch, BoundTask, Feature

if TYPE_CHECKING:
    from rich.console import Console

READS, WRITES = "reads", "writes"
Piece = dict[str, Any]
"""text; loss: whether its tokens carry loss; label: what is to be found there, where that is not the text itself."""


def rendered(bound: BoundTask, processor: Processor, feature: Feature) -> list[dict[str, Any]]:
    """As JSON, for each sequence of a feature {"part": READS or, of a decoder that has an encoder, WRITES; "tokens": how many; "pieces"}. As in
    training's first epoch: what a task draws (masks) is drawn."""
    from spcore.loading import generator

    drawn = bound.augment(feature, generator(0, "inspect"))
    batch = bound.collate([[drawn]], feature.length)
    found = []
    for s, ids in enumerate(np.asarray(batch.inputs["input_ids"])):
        mask = batch.inputs.get("attention_mask", batch.inputs.get("segment_ids"))
        count = len(ids) if mask is None else int(np.count_nonzero(mask[s]))
        found.append(_part(READS, *_marked(bound, processor, batch, s, count), processor))
        if "decoder_input_ids" in batch.inputs:
            labels = np.asarray(batch.targets["labels"])[s]
            written = labels[labels >= 0]
            found.append(_part(WRITES, written, [True] * len(written), [None] * len(written), processor))
    return found


def _marked(
    bound: BoundTask, processor: Processor, batch: Batch, s: int, count: int
) -> tuple[np.ndarray, list[bool], list[str | None]]:
    """The tokens of a sequence, whether each carries loss, and each one's label where it is another text."""
    ids = np.asarray(batch.inputs["input_ids"])[s][:count]
    none: list[str | None] = [None] * count
    targets = [np.asarray(target) for target in batch.targets.values()]
    shape = np.asarray(batch.inputs["input_ids"]).shape
    if bound.head.kind == "span":  # labels [sequences, 2]: first and last token
        begin, end = np.asarray(batch.targets["labels"])[s].tolist()
        return ids, [0 <= begin <= n <= end for n in range(count)], none
    aligned = [target for target in targets if target.shape[:2] == shape]
    if "decoder_input_ids" in batch.inputs or not aligned:
        return ids, [False] * count, none
    labels = aligned[0][s][:count]
    real = labels >= 0 if labels.ndim == 1 else np.ones(count, bool)
    if bound.head.kind == "vocabulary" and bound.head.causal:  # the label of a place is the token after it
        whole = np.append(ids, labels[-1:][real[-1:]])
        return whole, [False, *real.tolist()][: len(whole)], [None] * len(whole)
    if bound.head.kind == "vocabulary":
        said = [processor.decode([int(label)]) if ok else None for label, ok in zip(labels, real, strict=True)]
    else:
        said = [bound.head.labels[int(label)] if ok else None for label, ok in zip(labels, real, strict=True)]
    return ids, real.tolist(), said


def _part(
    part: str, ids: np.ndarray, loss: Sequence[bool], labels: Sequence[str | None], processor: Processor
) -> dict[str, Any]:
    """Tokens that follow each other, alike, as one piece. A piece's text is what it adds to the text before it, so that spaces stay."""
    pieces: list[Piece] = []
    before, start = "", 0
    for n in range(1, len(ids) + 1):
        if n < len(ids) and (loss[n], labels[n]) == (loss[start], labels[start]) and labels[n] is None:
            continue
        whole = processor.decode(ids[:n].tolist(), skip_special=False)
        own = (
            whole[len(before) :]
            if whole.startswith(before)
            else processor.decode(ids[start:n].tolist(), skip_special=False)
        )
        pieces.append(
            {"text": own, "loss": bool(loss[start]), **({} if labels[start] is None else {"label": labels[start]})}
        )
        before, start = whole, n
    return {"part": part, "tokens": len(ids), "pieces": pieces}


def show_rendered(parts: Sequence[dict[str, Any]], console: Console) -> None:
    """For people: what carries loss in green, with its label behind it; between brackets where there are no colours."""
    from rich.text import Text

    for part in parts:
        line = Text().append(f"{part['part']} ({part['tokens']} tokens): ", style="dim")
        for piece in part["pieces"]:
            text = piece["text"]
            if piece["loss"] and console.color_system is None:
                text = f"⟦{text}⟧"
            line.append(text, style="bold green" if piece["loss"] else "")
            if "label" in piece:
                line.append(f"→{piece['label']}", style="italic cyan")
        console.print(line)
