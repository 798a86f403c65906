"""Options of this package's components."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ProgressOptions(BaseModel):
    """Logger `progress`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(
        0, ge=0, lt=2**31, description="steps between lines where stderr is no terminal; 0: no lines for steps"
    )
