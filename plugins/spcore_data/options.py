"""Options of this package's components."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from spcore.documents import Holdout

Format = Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "arrow", "text", "conll"]


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FilesOptions(_Closed):
    """Data set `files`."""

    source: str | tuple[str, ...] = Field(
        description="a path, a glob, a folder, or several; a name that is none of these is looked for on the Hub"
    )
    name: str | None = Field(None, description="for a Hub name: the data set's configuration")
    format: Format = Field("auto", description="auto: by content, then by name")
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="of CSV, TSV and CoNLL, one character; null: a tab in TSV, else by content",
    )
    quoting: Literal["auto", "csv", "none"] = Field(
        "auto", description="csv: quotes enclose fields; none: quotes are text; auto: by content"
    )
    header: Literal["auto"] | bool = Field(
        "auto", description="whether the first row of CSV and TSV names the columns; auto: by content"
    )
    names: tuple[str, ...] | None = Field(
        None,
        description="names of the columns of CSV, TSV and CoNLL, in place of a header's where there is one",
    )


class CorpusOptions(Holdout, _Closed):
    """Data set `corpus`."""

    source: str | tuple[str, ...] = Field(
        description="a path, a glob, a folder, or several, of plain text, JSON lines and Parquet"
    )
    text: str | None = Field(
        None, description="JSON lines and Parquet: the column with the text; null: `text`, `content` or `document`"
    )
    documents: str = Field(
        "auto",
        min_length=1,
        description="plain text: what a document is: file, line, blank-line (what blank lines part), or any other text, which parts documents where it stands; auto: line where lines are long, else file",
    )


class ParallelOptions(_Closed):
    """Data set `parallel`."""

    source: str = Field(
        description="a folder with files NAME.LANGUAGE (train.en, train.de, packed or not), a path without the language, or one of the files"
    )
    languages: tuple[str, ...] | None = Field(
        None,
        description="the languages to read, first what is translated, then what it is translated into; null: all that are there",
    )
    pairs: tuple[str, ...] | None = Field(
        None,
        description="pairs of languages (en-de, de-en): each line gives a row of each pair, with columns source, target, source_language, "
        "target_language; null: a column a language",
    )

    @model_validator(mode="after")
    def _pairs(self) -> ParallelOptions:
        if self.languages is not None and self.pairs is not None:
            raise ValueError("`pairs` say the languages; give one of the two")
        for name in ("languages", "pairs"):
            given = getattr(self, name)
            if given is not None and (len(set(given)) < len(given) or len(given) < (2 if name == "languages" else 1)):
                raise ValueError(
                    f"{name} {list(given)}: expected {'two or more' if name == 'languages' else 'one or more'}, each once"
                )
        for pair in self.pairs or ():
            one, dash, other = pair.partition("-")
            if not (one and dash and other) or one == other:
                raise ValueError(f"pairs: {pair!r} is no pair of languages; expected one as 'en-de'")
        return self


class HubOptions(_Closed):
    """Data set `hub`."""

    source: str = Field(description="the data set's name on the Hub")
    name: str | None = Field(None, description="the data set's configuration; null: the only one")
    revision: str | None = Field(None, description="branch, tag or commit; null: main")
    streaming: bool = Field(
        False, description="read as it is needed, nothing downloaded before; it then has no length: give train.steps"
    )


class GlueOptions(_Closed):
    """Data set `glue`."""

    name: Literal["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"] = Field(description="the task")
    folder: str | None = Field(
        None,
        description="a folder with the task's TSV files, or with one folder a task; null: from the Hub or its cache",
    )

    @field_validator("name", mode="before")
    @classmethod
    def _as_written(cls, value: Any) -> Any:
        """GLUE's own spellings too: SST-2, STS-B, CoLA."""
        return value.lower().replace("-", "").replace("_", "") if isinstance(value, str) else value


class BuiltinOptions(_Closed):
    """Data set `builtin`."""

    source: str = Field("builtin/reviews", description="which set: builtin/reviews")


class RowsOptions(_Closed):
    """Data set `rows`: give one of the two."""

    rows: tuple[dict[str, Any], ...] | None = Field(None, description="the rows, one mapping of column -> value each")
    source: str | None = Field(None, description="a JSON-lines file with the rows")

    @model_validator(mode="after")
    def _one(self) -> RowsOptions:
        if (self.rows is None) == (self.source is None):
            raise ValueError("give `rows` or `source`, one of the two")
        return self
