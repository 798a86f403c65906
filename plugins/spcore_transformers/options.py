"""Options of this package's components."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TransformersOptions(BaseModel):
    """Model source `transformers`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str = Field("", description="a name on the Hub, or a folder")
    revision: str | None = Field(None, description="branch, tag or commit on the Hub; null: the default branch")
    dropout: float | None = Field(
        None, ge=0, lt=1, description="every dropout probability of the model, 0 to 1; null: as its configuration says"
    )
    attention: Literal["auto", "sdpa", "eager"] = Field(
        "auto",
        description="how attention is computed; auto: by segments where the family is known, else transformers' choice",
    )
    from_scratch: bool = Field(
        False, description="true: take configuration and tokenizer only, and initialise all weights anew"
    )
