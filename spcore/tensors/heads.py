"""For custom heads: packs as rows, so that a head is written once."""

from __future__ import annotations

import torch


def as_rows(
    hidden: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states with one text a row, whatever a custom head's forward was given.

    hidden: [S, L, H]; mask: bool [S, L]; segments: int64 [N, 2], (sequence, start) of each text of packs, or None where every
    sequence is one text. Returns ([N, longest, H], bool [N, longest]); without packs what it was given.
    """
    if segments is None:
        return hidden, mask
    sequence, start = segments[:, 0], segments[:, 1]
    real = mask.sum(1)
    following = torch.cat([start[1:], start.new_zeros(1)])
    last = torch.cat([sequence[1:] != sequence[:-1], sequence.new_ones(1, dtype=torch.bool)])
    lengths = torch.where(last, real[sequence], following) - start
    place = torch.arange(int(lengths.max()), device=hidden.device)
    kept = place[None, :] < lengths[:, None]
    flat = sequence[:, None] * hidden.shape[1] + start[:, None] + torch.where(kept, place[None, :], 0)
    rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, flat.reshape(-1))
    return rows.view(*flat.shape, -1), kept
