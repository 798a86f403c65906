"""Data set `parallel`: lines of the same number are a row, files' names tell languages and splits."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from spcore.errors import DataError, SourceError
from spcore_data.files import Files
from spcore_data.options import FilesOptions, ParallelOptions
from spcore_data.parallel import Parallel

EN, DE, FR = ["a dog", "", "two cats"], ["ein Hund", "", "zwei Katzen"], ["un chien", "", ""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for language, lines in (("en", EN), ("de", DE), ("fr", FR)):
        (tmp_path / f"train.{language}.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
        (tmp_path / f"val.{language}").write_text(lines[0] + "\n")
    (tmp_path / "README.md").write_text("no data\n")
    return tmp_path


def opened(source: Path | str, split: str | None = None, **options: Any) -> Any:
    return Parallel(ParallelOptions(source=str(source), **options)).open(split)


def rows(source: Path | str, split: str | None = None, **options: Any) -> list[dict[str, Any]]:
    found = opened(source, split, **options)
    read: list[dict[str, Any]] = found.read(range(found.length))
    return read


def test_a_column_a_language(folder: Path) -> None:
    found = opened(f"parallel:{folder}", "train")
    assert found.read([0, 1]) == [
        {"de": "ein Hund", "en": "a dog", "fr": "un chien"},
        {"de": "zwei Katzen", "en": "two cats", "fr": ""},
    ]
    assert found.place(1) == f"{folder}/train.de.gz:3"
    assert (found.report.read, dict(found.report.dropped)) == (3, {"empty line": [2]})
    assert [(file["language"], file["compression"]) for file in found.report.files] == [
        ("de", "gzip"), ("en", "gzip"), ("fr", "gzip"),
    ]  # fmt: skip
    assert (found.schema.default_task, found.schema.column_map) == ("seq2seq", {})
    assert rows(folder, "validation") == [{"de": "ein Hund", "en": "a dog", "fr": "un chien"}]


def test_languages_say_what_is_translated_into_what(folder: Path) -> None:
    found = opened(folder, languages=["fr", "en"])
    assert list(found.schema.columns) == ["fr", "en"]
    assert found.schema.column_map == {"source": "fr", "target": "en"}
    assert found.fingerprint != opened(folder, languages=["en", "fr"]).fingerprint


def test_pairs_give_a_row_each(folder: Path) -> None:
    found = rows(folder, pairs=["en-de", "de-en"])
    assert [tuple(row.values()) for row in found] == [
        ("a dog", "ein Hund", "en", "de"), ("ein Hund", "a dog", "de", "en"),
        ("two cats", "zwei Katzen", "en", "de"), ("zwei Katzen", "two cats", "de", "en"),
    ]  # fmt: skip
    assert list(found[0]) == ["source", "target", "source_language", "target_language"]
    source = opened(folder, pairs=["en-de", "de-en"])
    assert [source.place(n).rpartition(":")[2] for n in range(4)] == ["1", "1", "3", "3"]


@pytest.mark.parametrize("name", ["train", "train.en.gz", "train.*"])
def test_other_ways_to_name_them(folder: Path, name: str) -> None:
    assert len(rows(folder / name)) == 2


def test_text_behind_the_language_and_names_with_dots(tmp_path: Path) -> None:
    for language in ("de", "en"):
        (tmp_path / f"news.de-en.{language}.txt").write_text(f"{language}\n")
        (tmp_path / f"news.{language}").write_text("other\n")
    assert rows(tmp_path / "news.de-en") == [{"de": "de", "en": "en"}]
    assert rows(tmp_path / "news") == [{"de": "other", "en": "other"}]


def test_files_of_a_split_follow_each_other(tmp_path: Path) -> None:
    for name in ("train-a", "train-b"):
        for language in ("de", "en"):
            (tmp_path / f"{name}.{language}").write_text(f"{name} {language}\n")
    found = opened(tmp_path)
    assert [row["en"] for row in found.read(range(2))] == ["train-a en", "train-b en"]
    assert "2 files are read one after another" in found.report.remarks[0]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"languages": ["en", "d"]}, SourceError, "unknown language 'd'; did you mean 'de'?"),
        ({"pairs": ["en-ru"]}, SourceError, "unknown language 'ru'"),
        ({"languages": ["en"]}, ValueError, "expected two or more, each once"),
        ({"pairs": ["ende"]}, ValueError, "'ende' is no pair of languages; expected one as 'en-de'"),
        ({"pairs": ["en-de"], "languages": ["en", "de"]}, ValueError, "give one of the two"),
    ],
)
def test_what_is_refused(folder: Path, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said.replace("?", r"\?")):
        opened(folder, **options)


def test_files_that_do_not_belong_together_are_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "val.de").write_text("eins\nzwei\n")
    with pytest.raises(
        DataError, match=r"val.de:? ?.*lines of the same number are the same text, and val.de has 2, val.en has 1"
    ):
        opened(folder, "validation", languages=["de", "en"])
    (folder / "val.en").write_text("one\n\n\n\n")
    assert rows(folder, "validation", languages=["de", "en"]) == [{"de": "eins", "en": "one"}, {"de": "zwei", "en": ""}]
    (folder / "val.en.gz").write_bytes(gzip.compress(b"twice\n"))
    with pytest.raises(SourceError, match=r"val.en and val.en.gz are the same language twice"):
        opened(folder)
    alone = tmp_path_factory.mktemp("alone")
    (alone / "train.en").write_text("x\n")
    with pytest.raises(SourceError, match="no files there that are called alike but for their language"):
        opened(alone)
    with pytest.raises(SourceError, match="no such file"):
        opened(alone / "nothing" / "train")


def test_rows_of_translations_are_columns(tmp_path: Path) -> None:
    made = [
        {"id": 1, "translation": {"en": "a dog", "de": "ein Hund"}},
        {"id": 2, "translation": {"fr": "un chat", "en": "a cat"}},
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    source = Files(FilesOptions(source=str(file))).open(None)
    assert source.read(range(2)) == [
        {"source": "a dog", "target": "ein Hund", "source_language": "en", "target_language": "de", "id": 1},
        {"source": "un chat", "target": "a cat", "source_language": "fr", "target_language": "en", "id": 2},
    ]
    assert source.schema.default_task == "seq2seq"


def test_instances_of_an_instruction_are_rows(tmp_path: Path) -> None:
    made = [
        {
            "id": 1,
            "instruction": "add",
            "instances": [{"input": "1 1", "output": "2"}, {"input": "2 2", "output": "4"}],
        },
        {"id": 2, "instruction": "greet", "instances": []},
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    source = Files(FilesOptions(source=str(file))).open(None)
    assert source.read(range(3)) == [
        {"id": 1, "instruction": "add", "input": "1 1", "output": "2"},
        {"id": 1, "instruction": "add", "input": "2 2", "output": "4"},
        {"id": 2, "instruction": "greet", "input": None, "output": None},
    ]
    assert [source.place(n).rpartition(":")[2] for n in range(3)] == ["1", "1", "2"]
