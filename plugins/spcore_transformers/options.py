"""Options of this package's components."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TransformersOptions(BaseModel):
    """Model source `transformers`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field("", description="a name on the Hub, or a folder")
    revision: str | None = Field(None, description="branch, tag or commit on the Hub")
    dropout: float | None = Field(None, ge=0, lt=1, description="every dropout probability of the model; null: as its configuration says")
    from_scratch: bool = Field(False, description="take configuration and tokenizer, and initialise all weights anew")
