"""Mixtures of dirt, drawn with a seed: every row that is good is read as it was written, every other one is counted."""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zstandard
from dirt_cases import Case
from dirt_outcomes import outcome

from spcore_tasks.labels import canonical

TEXTS = [
    "a fine film", "dull and long", "it's all right", "one, two; three | four", "he said no", "7", "  padded  ", "a\u2028b", "x\x85y",
    "100% of it", "-", "#1 of the year", "(see above)", "http://example.org/?a=1&b=2", "C:\\temp\\new", "text", "label", "sep", "a = b",
]  # fmt: skip
WIDE = ["café", "文本很好", "🎬 film", "naïve — really"]
QUOTED = ['he said "no"', '"quoted"', 'a 6" sub', '""']
BROKEN = ["over\ntwo lines", "a\n\nb", "first\nsecond\nthird"]
LABELS = [
    ("0", "1"),
    ("0.0", "1.0"),
    ("false", "true"),
    ("False", "TRUE"),
    ("bad", "good"),
    ("1", "2"),
    ("差评", "好评"),
]
SEEDS = range(240)


@dataclass
class Mixture:
    """A file as it was drawn. rows: the good ones. bad: how many others, by kind."""

    name: str
    content: bytes
    rows: list[tuple[str, str]] = field(default_factory=list)
    bad: dict[str, int] = field(default_factory=dict)


def writer(delimiter: str, quoting: Any, plain: bool, trailing: bool) -> Callable[..., str]:
    """Writes cells as a line without its end. plain: quotes are only text. trailing: a delimiter at the end."""

    def line(*cells: str) -> str:
        if plain:
            return "\t".join(cells) + ("\t" if trailing else "")
        stream = io.StringIO()
        csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerow(cells)
        return stream.getvalue()[:-1] + (delimiter if trailing else "")

    return line


def mixture(seed: int) -> Mixture:
    """Draw a file."""
    rng = random.Random(seed)
    delimiter = rng.choice([",", ",", ";", "\t", "|"])
    tab_file = delimiter == "\t" and rng.random() < 0.7
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
    end = rng.choice(["\n", "\n", "\r\n", "\r\r\n", "\r"])
    plain = delimiter == "\t" and rng.random() < 0.5  # quotes are only text, as in GLUE's files
    texts = [
        *TEXTS,
        *QUOTED,
        *(WIDE if encoding != "utf-16-le" else []),
        *(BROKEN if end == "\n" and not plain else []),
    ]
    labels = rng.choice(LABELS[:-1] if encoding == "utf-16-le" else LABELS)
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    trailing = rng.random() < 0.2

    line = writer(delimiter, quoting, plain, trailing)
    names = rng.choice([("text", "label"), ("Text", "LABEL"), ("review", "stars"), (" sentence ", "label ")])
    found = Mixture(f"a.{'tsv' if tab_file else 'csv'}", b"")
    kinds = {
        "again": line(*names),
        "empty": "",
        "ragged": line("a", "1", "x"),
        "blank": line(" ", labels[0]),
        "missing": line("a", ""),
    }
    bad = rng.sample(sorted(kinds), rng.randint(0, 3))
    content = [*(["sep=" + delimiter] if rng.random() < 0.1 and delimiter != "\t" else []), line(*names)]
    for n in range(rng.randint(20, 60)):
        text, label = rng.choice(texts), labels[n % 2]
        content.append(line(text, rng.choice([label, label, f" {label}", f"{label} "])))
        found.rows.append((text, canonical(label)))
        if bad and rng.random() < 0.1:
            kind = rng.choice(bad)
            content.append(kinds[kind])
            found.bad[kind] = found.bad.get(kind, 0) + 1
    content.append(line("the last", labels[0]))
    found.rows.append(("the last", canonical(labels[0])))
    whole = end.join(content) + rng.choice(["", end, end + end])
    found.content = rng.choice([bytes, bytes, gzip.compress, zstandard.ZstdCompressor().compress])(
        whole.encode(encoding)
    )
    return found


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[] if n < 60 else pytest.mark.slow) for n in SEEDS])
def test_a_mixture_is_read_right(seed: int, tmp_path: Path) -> None:
    drawn = mixture(seed)
    found = outcome(Case({drawn.name: drawn.content}), tmp_path)
    assert found.rows is not None, found.said
    read = [(str(text), canonical(label)) for text, label in found.rows]
    assert read == drawn.rows
    told = {
        "the header again": "again", "empty line": "empty", "3 fields where 2 are expected": "ragged",
        "4 fields where 2 are expected": "ragged", "4 fields where 3 are expected": "ragged", "blank text": "blank", "no label": "missing",
    }  # fmt: skip
    assert {told[reason]: n for reason, n in found.counts.items()} == drawn.bad


def test_mixtures_differ() -> None:
    assert len({mixture(seed).content for seed in SEEDS}) == len(SEEDS)
    assert {kind for seed in range(60) for kind in mixture(seed).bad} == {
        "again",
        "empty",
        "ragged",
        "blank",
        "missing",
    }
