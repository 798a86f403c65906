"""A data set whose rows are computed, tasks that are told to wait or to fail, and a program that a test may kill."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core_fakes import WordTask

import spcore.featurizing as featurizing
from spcore.errors import SlimPajamaError
from spcore.interfaces.dataset import Column, Row, Schema, Source
from spcore.interfaces.task import Feature


class Texts(Source):
    """Row n: some words, in two parts where n is even; every 50th row is empty. size: as a source says it, bytes."""

    def __init__(self, count: int, words: int = 20, size: int | None = None) -> None:
        self.length, self.words, self.size = count, words, size
        self.schema, self.fingerprint = Schema({"text": Column("text")}), f"{count} {words}"

    def row(self, n: int) -> Row:
        text = " ".join("x" * (1 + (n * 7 + k) % 11) for k in range(self.words))
        return {"text": "" if n % 50 == 7 else f"{text} / {n} more" if n % 2 == 0 else text}

    def read(self, ids: Sequence[int]) -> list[Row]:
        return [self.row(n) for n in ids]

    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        raise AssertionError("it has a length")

    def place(self, row: int) -> str:
        return f"texts:{row + 1}"


class Waiting(WordTask):
    """Says so and waits to be killed when it comes to a row."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = f"{at} more"

    def featurize(self, row: Row) -> list[Feature]:
        if str(row["text"]).endswith(self.at):
            os.write(2, b"waiting\n")
            signal.pause()
        return super().featurize(row)


class Failing(WordTask):
    """Has a fault that a row brings to light, or ends its process there."""

    def __init__(self, at: int, how: str) -> None:
        super().__init__()
        self.at, self.how = f"{at} more", how

    def featurize(self, row: Row) -> list[Feature]:
        if str(row["text"]).endswith(self.at):
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyError("a fault of the task's")
        return super().featurize(row)


class Unportable(WordTask):
    """Cannot be sent to another process."""

    def __init__(self) -> None:
        super().__init__()
        self.held = lambda: None


def settings(processes: int, shard_bytes: int) -> dict[str, Any]:
    """What a test sets of `spcore.featurizing`: everything is cached, and others are started after the first rows."""
    hurry = 0.0 if processes > 1 else 1e9
    return {
        "CACHE_FROM_ROWS": 1, "SHARD_BYTES": shard_bytes, "ALONE_SECONDS": hurry, "WORTH_SECONDS": hurry,
        "cores": lambda: processes, "_CHUNK_BYTES": 4000,
    }  # fmt: skip


def main(count: int, waits: int, processes: int, words: int, shard_bytes: int, most_bytes: int) -> None:
    """Featurise `count` rows; tell features and peak memory, or the error. waits: the row to be killed at; most_bytes: a file may
    have, both -1 for none."""
    for name, value in settings(processes, shard_bytes).items():
        setattr(featurizing, name, value)
    if most_bytes >= 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    try:
        store = featurizing.featurize(Texts(count, words, 1 << 40), Waiting(waits), limit=None, key="key")
    except SlimPajamaError as error:
        sys.exit(str(error))
    print(len(store), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)


def command(cache: Path, *arguments: int) -> dict[str, Any]:
    """`main` as a process, for `subprocess`."""
    here = Path(__file__).resolve().parent
    code = f"from cached_texts import main; main(*{arguments!r})"
    path = os.pathsep.join([str(here), *filter(None, sys.path)])
    env = {**os.environ, "SLIMPAJAMA_CACHE": str(cache), "PYTHONPATH": path}
    return {"args": [sys.executable, "-c", code], "env": env, "text": True}
