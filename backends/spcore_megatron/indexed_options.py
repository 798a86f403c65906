"""Options of data set `megatron-indexed`."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from spcore.documents import Holdout


class IndexedOptions(Holdout):
    """Data set `megatron-indexed`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | tuple[str, ...] = Field(
        description="PREFIX.idx beside PREFIX.bin, the prefix alone, a glob of .idx, a folder, or several"
    )
