"""Options of data set `megatron-indexed`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class IndexedOptions(BaseModel):
    """Data set `megatron-indexed`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | tuple[str, ...] = Field(
        description="PREFIX.idx beside PREFIX.bin, the prefix alone, a glob of .idx, a folder, or several"
    )
    holdout: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the documents that is split `validation`, the rest being `train`; null: none",
    )
    holdout_by: Literal["document", "tail"] = Field(
        "document",
        description="document: chosen by their content, so that copies stay together; tail: each file's last documents",
    )

    @model_validator(mode="after")
    def _by(self) -> IndexedOptions:
        if self.holdout is None and self.holdout_by != "document":
            raise ValueError("`holdout_by` says how `holdout` is taken; give that too")
        return self
