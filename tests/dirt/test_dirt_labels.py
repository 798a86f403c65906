"""The rule for labels and missing values, and where rows stand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from dirt_cases import CASES

from spcore.errors import DataError
from spcore.interfaces.dataset import Column, Schema
from spcore.rows import MISSING, RoleSource, is_missing, map_roles, open_rows
from spcore.text import LABEL, TEXT
from spcore_data.files import Files
from spcore_data.options import FilesOptions
from spcore_tasks.labels import learn, values_in


def counted(*values: str, kind: str = "text") -> Column:
    return Column(kind, None, dict.fromkeys(values, 1))


def opened(path: Path, **more: Any) -> RoleSource:
    dataset = Files(FilesOptions.model_validate({"source": str(path)}))
    return open_rows(dataset, (TEXT, LABEL), columns={}, split=more.get("split"), limit=more.get("limit"))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["True", "1", "0"], ("0", "1")),
        (["true", "TRUE", "false"], ("false", "true")),
        (["TRUE", "false"], ("false", "true")),
        (["TRUE", "FALSE"], ("FALSE", "TRUE")),
        (["False", "1", "2"], ("0", "1", "2")),
        (["true", "maybe"], ("maybe", "true")),
        (["1.0", "True", "0.0", "false"], ("0", "1")),
        (["01", "1"], ("01", "1")),
        (["None", "NaN", "a", "<NA>", "b"], ("a", "b")),
        (["none", "NONE", "na", "a"], ("NONE", "a", "na", "none")),
    ],
)
def test_the_labels_of_a_mixed_column(values: list[str], names: tuple[str, ...]) -> None:
    assert values_in(counted(*values)) == names
    labels = learn(counted(*values), None)
    for value in values:
        if value not in MISSING:
            assert labels.find(value) is not None, value


def test_all_forms_of_true_and_false_are_one_label_each() -> None:
    labels = learn(counted("True", "1", "0"), None)
    assert {labels.id(value) for value in (1, "1", 1.0, "1.0", True, "True", "true", "TRUE", " 1 ")} == {1}
    assert {labels.id(value) for value in (0, "0", 0.0, "-0", False, "False", "false", "FALSE")} == {0}
    assert labels.count(counted("True", "1", "0", "None")) == [1, 2]


def test_a_word_for_a_missing_value_is_a_label_where_it_is_named() -> None:
    stance = counted("favor", "against", "None")
    with pytest.raises(DataError, match=r"^no label \('None' stands for none\)$"):
        learn(stance, None).id("None")
    assert learn(stance, ["None", "against", "favor"]).id("None") == 0
    assert learn(stance, {"None": "neutral", "favor": "yes", "against": "no"}).id("None") == 0
    assert learn(Column("integer", ("None", "some"), {"0": 1, "1": 1}), None).id(0) == 0


def test_infinite_numbers_are_no_labels() -> None:
    assert values_in(counted("1.0", "2.0", "inf", "-inf", kind="number")) == ("1", "2")


@pytest.mark.parametrize("value", [None, math.nan, "", "  ", *sorted(MISSING), " NaN "])
def test_what_is_missing(value: Any) -> None:
    assert is_missing(value)


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "none", "nothing", "NA/", [], {}])
def test_what_is_not(value: Any) -> None:
    assert not is_missing(value)


def test_where_rows_stand(tmp_path: Path) -> None:
    for name, content in (
        ("a.csv", 'text,label\n"one\n\ntwo",1\n\nthree,0\n'), ("b.jsonl", '\n{"text": "x", "label": 1}\n\n{"text": "y", "label": 0}\n'),
        ("c.txt", "one\n\ntwo\n"), ("d.json", '[{"text": "x", "label": 1}]'),
    ):  # fmt: skip
        (tmp_path / name).write_text(content)
    places = {name: [opened(tmp_path / name).place(n) for n in range(2)] for name in ("a.csv", "b.jsonl")}
    assert places == {name: [f"{tmp_path}/{name}:{n}" for n in (2, at)] for name, at in (("a.csv", 6), ("b.jsonl", 4))}
    text = Files(FilesOptions(source=str(tmp_path / "c.txt"))).open(None)
    assert [text.place(n) for n in range(2)] == [f"{tmp_path}/c.txt:1", f"{tmp_path}/c.txt:3"]
    assert opened(tmp_path / "d.json").place(0) == f"{tmp_path}/d.json: row 0"
    both = Files(FilesOptions(source=(str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")))).open(None)
    assert [both.place(n).rpartition("/")[2] for n in range(4)] == ["a.csv:2", "a.csv:6", "b.jsonl:2", "b.jsonl:4"]
    assert opened(tmp_path / "a.csv", split="[1:2]").place(0) == f"{tmp_path}/a.csv:6"


def test_columns_are_taken_by_their_own_spelling_first() -> None:
    columns = {name: Column("text") for name in ("Text", "LABEL", "text")}
    assert map_roles(Schema(columns), (TEXT, LABEL), {}) == {"text": "text", "label": "LABEL"}
    assert map_roles(Schema({"Text": Column("text"), "TEXT": Column("text")}), (TEXT,), {}) == {"text": "Text"}


def test_a_wrong_mapping_names_the_file(tmp_path: Path) -> None:
    data = CASES["no header"].lay(tmp_path)
    dataset = Files(FilesOptions(source=str(data)))
    with pytest.raises(DataError, match=r"/a\.csv:1: data\.columns\.text: unknown column 'txt'; did you mean 'text'"):
        open_rows(dataset, (TEXT, LABEL), columns={"text": "txt"}, split=None, limit=None)
