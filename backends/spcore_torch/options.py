"""Options of this package's components."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SingleOptions(_Closed):
    """Strategies `single` and `ddp`."""

    flatten: Literal["auto", "always", "never"] = Field(
        "auto",
        description="feed microbatches as one row without padding: where that is possible and faster (auto: on a CPU), "
        "wherever it is possible, else refuse (always), or never; results are the same",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of the run; null: as torch has it")


class InlineOptions(_Closed):
    """Launcher `inline`."""

    processes: Literal[1] = Field(1, description="processes to start: one, the caller's own")


class LocalOptions(_Closed):
    """Launcher `local`."""

    processes: int = Field(1, ge=1, description="processes to start on this machine")
    max_restarts: int = Field(
        0, ge=0, description="how often all are started again from the last checkpoint after one failed"
    )


class EnvOptions(_Closed):
    """Launcher `env`: it has none; the environment says everything."""


class RuntimeOptions(_Closed):
    """Runtime `torch`."""

    dtype: Literal["float32", "bfloat16"] = Field("float32", description="format of matrix products")
    batch_tokens: int = Field(8192, ge=16, description="padded tokens of a batch at most")
