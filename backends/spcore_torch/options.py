"""Options of this package's components."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SingleOptions(_Closed):
    """Strategy `single`."""

    flatten: Literal["auto", "never"] = Field("auto", description="feed microbatches without padding where the model allows it; the result is the same")
    threads: int | None = Field(None, ge=1, description="CPU threads of the run; null: as torch has it")


class InlineOptions(_Closed):
    """Launcher `inline`."""

    processes: Literal[1] = Field(1, description="it starts none: one, the caller's own")


class RuntimeOptions(_Closed):
    """Runtime `torch`."""

    dtype: Literal["float32", "bfloat16"] = Field("float32", description="format of matrix products")
    batch_tokens: int = Field(8192, ge=16, description="padded tokens of a batch at most")
