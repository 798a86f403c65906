"""A tokenizer that a recipe has made of its own training texts: kept in the cache, under a fingerprint of the texts and the options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from spcore.bars import on_terminal
from spcore.errors import DataError
from spcore.features import cache_folder, fingerprint
from spcore.files import cached
from spcore_transformers.options import Style, TokenizerOptions
from spcore_transformers.tokenizer_training import check, in_transformers, train

_MAKING = 1
"""Changes when the same texts and options give another tokenizer."""


def own_tokenizer(options: TokenizerOptions, style: Style, texts: Iterable[str], rows: int | None, key: str) -> Path:
    """The folder of the tokenizer, trained where it is not there yet: the same texts give the same one, so every process finds or makes
    it alike. style: where the options name none. key: of the texts. Raises RefusalError for options, DataError for no texts."""
    settings = options if options.style is not None else options.model_copy(update={"style": style})
    check(settings)
    folder = cache_folder() / "tokenizers" / fingerprint(_MAKING, key, settings.model_dump())
    if (folder / "tokenizer.json").is_file():
        return folder
    counted = _Counted(texts)
    made = train(counted, settings, rows=rows, progress=on_terminal())
    if settings.kind != "bytes" and not counted.count:
        raise DataError("model.tokenizer: the training data has no text to make it of")
    with cached(folder) as work:
        in_transformers(made, settings).save_pretrained(work)
    return folder


class _Counted:
    """Texts, and how many there were the last time."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts, self.count = texts, 0

    def __iter__(self) -> Iterator[str]:
        self.count = 0
        for text in self._texts:
            self.count += 1
            yield text
