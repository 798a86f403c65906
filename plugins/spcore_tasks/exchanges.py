"""What a row of `seq2seq` says: the source and what goes with it, the references, the pair of languages; and the prompt made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.task import Role
from spcore.rows import is_missing
from spcore.text import text_of

_SOURCES = (
    "text", "instruction", "input", "inputs", "en", "document", "article", "dialogue", "question", "prompt", "sentence", "src", "原文",
)  # fmt: skip
_TARGETS = (
    "summary", "output", "answer", "response", "completion", "translation", "highlights", "abstract", "de", "fr", "tgt", "code", "译文",
)  # fmt: skip
SOURCE = Role("source", guesses=_SOURCES)
TARGET = Role("target", target=True, guesses=_TARGETS)
CONTEXT = Role("context", required=False, guesses=("input",))
PAIR = Role("pair", "any", required=False, guesses=("language_pair", "lang_pair", "langs", "direction"))
FROM = Role(
    "source_language", "any", required=False, guesses=("source_lang", "src_lang", "src_language", "from_language")
)
INTO = Role(
    "target_language", "any", required=False, guesses=("target_lang", "tgt_lang", "tgt_language", "to_language")
)
ROLES = (SOURCE, TARGET, CONTEXT, PAIR, FROM, INTO)

PLACES = ("source", "context", "pair", "source_language", "target_language")
"""What a prompt may name in braces."""
_NAMED = re.compile("|".join(f"{{{name}}}" for name in PLACES))


def named(prompt: str | None) -> tuple[str, ...]:
    """The roles that a prompt names, the source aside."""
    found = dict.fromkeys(place[1:-1] for place in _NAMED.findall(prompt or ""))
    return tuple(name for name in found if name != "source")


def joined(row: Row, role: str) -> str:
    """A row's text; of a list of texts (the sentences of a document) these with spaces between. Raises DataError, see `text_of`."""
    value = row.get(role)
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = " ".join(part.strip() for part in value)
    return text_of({**row, role: value}, role)


def references(row: Row) -> list[str]:
    """The texts that each would be a right answer: the target, or all of a list. Raises DataError for a blank one, and where there is none."""
    value = row["target"]
    if not isinstance(value, list):
        return [text_of(row, "target")]
    if not value:
        raise DataError("blank target")
    return [text_of({"target": one}, "target") for one in value]


def pair_of(row: Row) -> str | None:
    """The row's pair of languages ("en-de"); None where it does not say."""
    if not is_missing(row.get("pair")):
        return str(row["pair"]).strip()
    ends = [str(row[role]).strip() for role in (FROM.name, INTO.name) if not is_missing(row.get(role))]
    return "-".join(ends) if len(ends) == 2 else None


def rendered(prompt: str | None, row: Row, source: str) -> str:
    """What a model reads of a row whose source is `source`: the prompt with everything in its place; without a prompt the source, and the
    context below it. A context that is missing is nothing. Raises DataError for a pair or a language that the prompt names and the row
    does not."""
    context = "" if is_missing(row.get("context")) else str(row["context"])
    if prompt is None:
        return f"{source}\n{context}" if context else source
    values: dict[str, str] = {"source": source, "context": context}
    for name in named(prompt):
        if name != "context":
            found = pair_of(row) if name == "pair" else row.get(name)
            if is_missing(found):
                raise DataError(f"blank {name}")
            values[name] = str(found).strip()
    return _NAMED.sub(lambda place: values[place[0][1:-1]], prompt)


def pairs_of(schema: Schema) -> tuple[str, ...]:
    """The pairs of languages that the data may hold, as far as its schema tells: figures are made of each."""
    if PAIR.name in schema.columns:
        return tuple(sorted(_values(schema, PAIR.name)))
    ends = product(_values(schema, FROM.name), _values(schema, INTO.name))
    return tuple(sorted(f"{one}-{other}" for one, other in ends if one != other))


def check_prompt(prompt: str | None, schema: Schema) -> None:
    """Raise RefusalError for a prompt that names what the data has no column for, but for a context, which rows may lack, and for data that want
    texts in several languages of one language where the prompt does not say which."""
    places = named(prompt)
    for name in places:
        told = name == "pair" and {FROM.name, INTO.name} <= schema.columns.keys()
        if name not in schema.columns and not told and name != "context":
            raise RefusalError(
                f"task.prompt: names {{{name}}}, and the data has no column for it",
                hint=f"Say which: data.columns.{name}=COLUMN",
            )
    if {"pair", INTO.name} & set(places):
        return
    sources, targets = _values(schema, FROM.name), _values(schema, INTO.name)
    ends = [pair.split("-", 1) for pair in _values(schema, PAIR.name) if "-" in pair]
    of = {one: sorted({into for start, into in ends if start == one}) for one, _ in ends}
    several = next(
        (found for found in of.values() if len(found) > 1), targets if len(targets) > len(sources) > 0 else None
    )
    if several:
        raise RefusalError(
            f"task.prompt: does not say which language is wanted, and of one language the data want several: {', '.join(several)}",
            hint="Name it, as task.prompt='\"translate to {target_language}: {source}\"'" if INTO.name in schema.columns
            else "Name it, as task.prompt='\"{pair}: {source}\"'",
        )  # fmt: skip


def _values(schema: Schema, role: str) -> Sequence[str]:
    column = schema.columns.get(role)
    counts: Mapping[str, Any] = (column.counts if column is not None else None) or {}
    return sorted(value.strip() for value in counts if not is_missing(value))
