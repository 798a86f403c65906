"""The sets that ship, rows in memory, and both through the core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_tools import ROWS, all_rows, as_jsonl, opened, write
from pydantic import ValidationError

from spcore.components import Registry
from spcore.errors import DataError, RecipeError, SourceError
from spcore.recipe import data_part, part_options
from spcore.testing.suites.dataset import check_dataset
from spcore_data import plugin
from spcore_data.builtin_sets import Builtin
from spcore_data.options import BuiltinOptions, RowsOptions
from spcore_data.rows import Rows


@pytest.fixture
def registry() -> Registry:
    registry = Registry(entry_points=False)
    registry.register(plugin, name="data")
    return registry


def made(registry: Registry, data: dict[str, Any]) -> Any:
    part = data_part(data, registry)
    return registry.create("dataset", part.use, part_options(part, "dataset", registry))


def builtin(source: str = "builtin/reviews") -> Builtin:
    return Builtin(BuiltinOptions.model_validate({"source": source}))


def test_builtin_reviews() -> None:
    train, test = opened("builtin/reviews"), opened("builtin/reviews", "test")
    assert (train.length, test.length) == (480, 160)
    assert train.schema.columns["label"].counts == {"positive": 240, "negative": 240}
    assert test.schema.columns["label"].counts == {"positive": 80, "negative": 80}
    assert list(train.schema.columns) == ["text", "label"]
    assert train.schema.default_task == "text-classification"
    assert train.schema.column_map == {"text": "text", "label": "label"}
    assert (train.report.dropped, train.report.remarks) == ({}, ())
    assert not {row["text"] for row in all_rows(train)} & {row["text"] for row in all_rows(test)}


def test_a_split_that_the_reviews_have_not() -> None:
    with pytest.raises(SourceError, match="'builtin/reviews': unknown split 'validation'; known: test, train"):
        opened("builtin/reviews", "validation")


@pytest.mark.parametrize("source", ["builtin/review", "builtin/"])
def test_a_set_that_does_not_ship(source: str) -> None:
    with pytest.raises(SourceError, match="known: builtin/reviews"):
        opened(source)


def test_builtin_by_both_its_names() -> None:
    assert builtin("reviews").open(None).fingerprint == builtin().open("train").fingerprint
    report = check_dataset(builtin())
    assert report.findings == [], str(report)


def test_reading_options_of_a_set_that_ships_are_refused() -> None:
    with pytest.raises(SourceError, match="`delimiter` is for files"):
        opened("builtin/reviews", delimiter=";")


def test_a_file_that_is_called_like_a_set_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "builtin/reviews", as_jsonl(ROWS))
    monkeypatch.chdir(tmp_path)
    assert all_rows(opened("builtin/reviews")) == ROWS


@pytest.mark.parametrize(
    "data", [{"source": "builtin/reviews"}, {"use": "builtin"}, {"use": "builtin", "source": "builtin/reviews"}]
)
def test_the_reviews_through_a_recipe(data: dict[str, Any], registry: Registry) -> None:
    assert made(registry, data).open("test").length == 160


def test_rows_in_memory(registry: Registry) -> None:
    dataset = made(registry, {"use": "rows", "rows": [*ROWS, {"text": "more", "extra": [1, 2]}]})
    source = dataset.open(None)
    assert all_rows(source)[:1] == [{**ROWS[0], "extra": None}]
    assert all_rows(source)[3] == {"text": "more", "label": None, "stars": None, "score": None, "extra": [1, 2]}
    assert source.schema.columns["label"].counts == {"good": 2, "bad": 1}
    assert (source.report.read, source.length) == (4, 4)
    report = check_dataset(dataset)
    assert report.findings == [], str(report)


def test_rows_that_were_spilled(registry: Registry, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", as_jsonl(ROWS))
    assert all_rows(made(registry, {"use": "rows", "source": str(path)}).open("train")) == ROWS
    with pytest.raises(SourceError, match=r"no such file; did you mean .*rows\.jsonl"):
        made(registry, {"use": "rows", "source": str(tmp_path / "row.jsonl")}).open(None)


def test_rows_that_are_not_rows() -> None:
    def rows(*given: dict[str, Any]) -> Rows:
        return Rows(RowsOptions.model_validate({"rows": given}))

    with pytest.raises(DataError, match="an empty list of rows"):
        rows().open(None)
    with pytest.raises(DataError, match="row 1, column 'text': object; expected text"):
        rows({"text": "a"}, {"text": object()}).open(None)
    with pytest.raises(SourceError, match="unknown split 'test'; known: train"):
        rows({"text": "a"}).open("test")


@pytest.mark.parametrize("given", [{}, {"rows": [{"a": 1}], "source": "a.jsonl"}])
def test_rows_want_one_of_two(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="give `rows` or `source`, one of the two"):
        RowsOptions.model_validate(given)


def test_the_header_is_a_switch_in_recipes(registry: Registry, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\nx,1\n")
    assert made(registry, {"source": str(path), "header": False}).open(None).length == 2
    with pytest.raises(RecipeError, match="header"):
        made(registry, {"source": str(path), "header": "perhaps"})


def test_what_is_offered(registry: Registry) -> None:
    assert registry.names("dataset") == ["builtin", "corpus", "files", "glue", "hub", "parallel", "rows"]
    assert registry.claiming("dataset", "anything").name == "files"
    assert registry.claiming("dataset", "hf:org/name").name == "hub"
