"""The page's table of dirty files, line by line: what becomes of each, and what is said."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from dirt_cases import CASES
from dirt_outcomes import outcome, table

TABLE = table()


def test_every_line_has_a_case_and_every_case_a_line() -> None:
    assert list(TABLE) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_policy_holds(name: str, tmp_path: Path) -> None:
    verdict, said = TABLE[name]
    found = outcome(CASES[name], tmp_path)
    assert (found.verdict, found.rows) == (verdict, CASES[name].rows)
    assert found.rows is None or [type(label) for _, label in found.rows] == [
        type(v) for _, v in CASES[name].rows or ()
    ]
    unsaid = [words for words in said if not any(words in line for line in found.said)]
    untold = [line for line in found.said if not any(words in line for words in said)]
    assert (unsaid, untold) == ([], []), "the page and the program do not say the same"
    if verdict == "refused":
        assert "\n" not in found.said[0]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.also])
def test_the_policy_holds_for_others_of_a_kind(name: str, tmp_path: Path) -> None:
    for number, case in enumerate(CASES[name].others):
        found = outcome(case, tmp_path / str(number))
        assert (found.verdict, found.rows) == (TABLE[name][0], case.rows), found.said
        if found.rows is None:
            assert next(iter(case.files)) + ":1: " in found.said[0]


def test_labels_that_differ_in_capitals_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "slimpajama"):
        outcome(CASES["labels that differ in capitals"], tmp_path)
    assert "'Good', 'good' differ in capitals only and are 2 labels" in caplog.text
