"""Options of this package's components."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, model_validator


class JsonSchemaOptions(BaseModel):
    """Constraint `json-schema`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    definition: dict[str, Any] | None = Field(None, description="the schema itself; in its place: file")
    file: StrictStr | None = Field(None, description="a JSON file that holds the schema; in its place: definition")
    compact: StrictBool = Field(False, description="no whitespace between values; false: where JSON allows it")

    @model_validator(mode="after")
    def _one(self) -> JsonSchemaOptions:
        if (self.definition is None) == (self.file is None):
            raise ValueError("give one of definition and file")
        return self


class RegexOptions(BaseModel):
    """Constraint `regex`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: StrictStr = Field(
        description="what the whole text must match, in the syntax of Rust's regex: no look-around, no back-references; a dot is no line end"
    )


class ChoiceOptions(BaseModel):
    """Constraint `choice`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: list[Annotated[StrictStr, Field(min_length=1)]] = Field(
        min_length=1, description="the texts, one of which is written"
    )
