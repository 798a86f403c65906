"""`train_tokenizer`: from a data set to a folder that `AutoTokenizer` opens, whole or not there. What the command calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tokenizers import Tokenizer

from spcore import components
from spcore.bars import on_terminal
from spcore.components import Registry
from spcore.errors import DataError, OutputError, RefusalError
from spcore.files import disk_errors, replace_folder, staged, sync_tree
from spcore.given import Data, data_tree, scratch
from spcore.interfaces.dataset import Row
from spcore.recipe import data_part, part_options
from spcore.rows import RoleSource, open_rows
from spcore.text import TEXT, text_of
from spcore_transformers.options import TokenizerOptions
from spcore_transformers.tokenizer_training import check, in_transformers, special_tokens, train, watched

_CHUNK, _SAMPLE = 1024, 1_000_000
_FILES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}


class Corpus:
    """The texts of a data set, read anew each time they are iterated; one chunk of rows is held. rows, without, characters, size
    [bytes of UTF-8]: of the last time. sample: the first million characters."""

    def __init__(self, source: RoleSource) -> None:
        self.source = source
        self._reset()

    def _reset(self) -> None:
        self.rows = self.without = self.characters = self.size = 0
        self.sample: list[str] = []
        self._sampled = 0

    def __iter__(self) -> Iterator[str]:
        self._reset()
        for row in self._rows():
            self.rows += 1
            try:
                text = text_of(row, TEXT.name)
                size = len(text.encode())
            except (DataError, UnicodeEncodeError):  # blank, or half of a surrogate pair
                self.without += 1
                continue
            self.characters += len(text)
            self.size += size
            if self._sampled < _SAMPLE:
                self.sample.append(text[: _SAMPLE - self._sampled])
                self._sampled += len(self.sample[-1])
            yield text

    def _rows(self) -> Iterator[Row]:
        length = self.source.length
        if length is None:
            yield from self.source.stream(0, 1, 0)
            return
        for start in range(0, length, _CHUNK):
            yield from self.source.read(range(start, min(length, start + _CHUNK)))


def train_tokenizer(
    dataset: Data,
    output: str | Path,
    *,
    kind: str,
    column: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
    registry: Registry | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train a tokenizer on a data set's texts and write it to `output`.

    dataset: as `finetune` takes it. kind and options: fields of `TokenizerOptions`. column: that of the texts; None: guessed, as
    for a task. overwrite: replace a tokenizer that is there. progress: bars on stderr; None: if that is a terminal.
    Gives counts: rows, rows_without_text, characters, bytes; vocabulary_size; and of the first million characters
    tokens_per_character and unknown_tokens. Raises SlimPajamaError.
    """
    settings = _options({"kind": kind, **options})
    check(settings)
    folder = Path(output).absolute()
    _check_output(folder, overwrite)
    registry = registry or components.default_registry()
    with scratch() as spilling:
        tree = data_tree(dataset, None, registry, spilling)
        tree |= {k: v for k, v in {"split": split, "limit": limit}.items() if v is not None}
        if column is not None:
            tree["columns"] = {TEXT.name: column}
        part = data_part(tree, registry)
        opened = registry.create("dataset", part.use, part_options(part, "dataset", registry))
        rows = open_rows(opened, [TEXT], columns=part.columns, split=part.split, limit=part.limit)
        corpus = Corpus(rows)
        show = on_terminal() if progress is None else progress
        made = train(corpus, settings, rows=rows.length, progress=show)
        if settings.kind == "bytes":  # for the counts
            for _ in watched(corpus, rows.length, show):
                pass
    if not corpus.characters:
        raise DataError(f"data: no text in {corpus.rows} rows")
    _write(made, settings, folder, overwrite)
    return _report(made, settings, corpus)


def _options(given: Mapping[str, Any]) -> TokenizerOptions:
    try:
        return TokenizerOptions.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise RefusalError(f"{name} {given.get(name)!r}: {first['msg']}") from error


def _check_output(folder: Path, overwrite: bool) -> None:
    """Refuse a folder with anything in it, unless it is a tokenizer's and may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; a tokenizer is a folder")
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not there:
        return
    others = sorted(there - _FILES)
    if others:
        raise OutputError(
            f"{folder}: not empty, and no tokenizer's own folder: {others[0]}", hint="Give another folder"
        )
    if not overwrite:
        raise OutputError(f"{folder}: a tokenizer is there", hint="Give another folder, or --overwrite")


def _write(made: Tokenizer, options: TokenizerOptions, folder: Path, overwrite: bool) -> None:
    """Write the files beside, then put them in place at once."""
    wrapped = in_transformers(made, options)
    with staged(folder) as work:
        wrapped.save_pretrained(work)
        sync_tree(work)
        with disk_errors(folder):
            _check_output(folder, overwrite)
            replace_folder(work, folder)


def _report(made: Tokenizer, options: TokenizerOptions, corpus: Corpus) -> dict[str, Any]:
    unk = special_tokens(options).get("unk")
    unknown_id = made.token_to_id(unk) if unk else None
    tokens, unknown, characters = 0, 0, 0
    for text in corpus.sample:
        ids = made.encode(text, add_special_tokens=False).ids
        tokens, characters = tokens + len(ids), characters + len(text)
        unknown += ids.count(unknown_id) if unknown_id is not None else 0
    return {
        "kind": options.kind, "vocabulary_size": made.get_vocab_size(), "rows": corpus.rows, "rows_without_text": corpus.without,
        "characters": corpus.characters, "bytes": corpus.size, "tokens_per_character": tokens / max(characters, 1),
        "unknown_tokens": unknown,
    }  # fmt: skip
