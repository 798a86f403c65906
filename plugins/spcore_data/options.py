"""Options of this package's components."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FilesOptions(_Closed):
    """Data set `files`."""

    source: str | tuple[str, ...] = Field(description="a path, a glob, a folder, or several; a name that is none of these is looked for on the Hub")
    name: str | None = Field(None, description="for a Hub name: the data set's configuration")
    format: Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "arrow", "text"] = Field("auto", description="auto: by name and content")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="of CSV and TSV, one character; null: by name and content")
    quoting: Literal["auto", "csv", "none"] = Field("auto", description="whether quotes enclose fields or are text; auto: by content")
    header: Literal["auto", "yes", "no"] = Field("auto", description="whether the first row names the columns; auto: by content")
    names: tuple[str, ...] | None = Field(None, description="names of the columns of a file without a header")


class HubOptions(_Closed):
    """Data set `hub`."""

    source: str = Field(description="the data set's name on the Hub")
    name: str | None = Field(None, description="the data set's configuration")
    revision: str | None = Field(None, description="branch, tag or commit")


class GlueOptions(_Closed):
    """Data set `glue`."""

    name: Literal["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"] = Field(description="the task")


class BuiltinOptions(_Closed):
    """Data set `builtin`."""

    source: Literal["reviews", "builtin/reviews"] = Field("reviews", description="which set")
