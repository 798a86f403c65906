"""The tree of errors: what a program catches, what a shell sees, what a person reads."""

from __future__ import annotations

import inspect

import pytest

import spcore.errors as errors
from spcore.errors import RankError, SlimPajamaError, UserError, nearest, unknown

TREE = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, SlimPajamaError)]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_is_one_line_with_an_exit_code(kind: type[SlimPajamaError]) -> None:
    error = kind(2, 5, "Traceback ...\nValueError: x") if kind is RankError else kind("it is so", hint="Do this")
    assert "\n" not in str(error)
    assert kind.exit_code in (1, 2, 130)
    assert (kind.exit_code == 2) == issubclass(kind, UserError), "2: what was typed or supplied"
    assert kind.__doc__


def test_exit_codes_by_name() -> None:
    found = {kind.__name__: kind.exit_code for kind in TREE}
    typed = ["UserError", "RecipeError", "ComponentError", "RefusalError", "SourceError", "DataError", "ArtifactError"]
    assert {name for name, code in found.items() if code == 2} == set(typed)
    assert found["RunCancelled"] == 130


def test_hint_is_a_second_sentence() -> None:
    error = SlimPajamaError("unknown task 'x'", hint="Write 'y'")
    assert (str(error), error.message, error.hint) == ("unknown task 'x'. Write 'y'", "unknown task 'x'", "Write 'y'")
    assert str(SlimPajamaError("no hint")) == "no hint"


def test_rank_error_says_who_when_and_what() -> None:
    error = RankError(3, 17, "Traceback (most recent call last):\n  File x\nValueError: bad\n")
    assert (error.rank, error.step) == (3, 17)
    assert str(error) == "rank 3 failed at step 17: ValueError: bad"
    assert error.traceback.startswith("Traceback")
    assert str(RankError(0, None, "")) == "rank 0 failed: no traceback"


@pytest.mark.parametrize(
    ("name", "found"),
    [("adamv", "adamw"), ("ADAMW", "adamw"), ("sdg", "sgd"), ("lion", None), ("", None), ("Lamb", "LAMB")],
)
def test_nearest(name: str, found: str | None) -> None:
    assert nearest(name, ["adamw", "sgd", "LAMB"]) == found


def test_unknown_lists_what_there_is() -> None:
    assert (
        unknown("optimizer", "adamv", ["sgd", "adamw", "sgd"])
        == "unknown optimizer 'adamv'; did you mean 'adamw'? known: adamw, sgd"
    )
    assert unknown("optimizer", "zzz", ["sgd"]) == "unknown optimizer 'zzz'; known: sgd"
    assert unknown("optimizer", "zzz", []) == "unknown optimizer 'zzz'; known: none"
    many = unknown("row", "zzz", [f"n{i:02}" for i in range(30)], limit=2)
    assert many == "unknown row 'zzz'; known: n00, n01, ... (30 in all)"


def test_public_errors_are_reexported() -> None:
    import spcore

    for kind in TREE:
        if kind.__name__ != "RunCancelled":
            assert getattr(spcore, kind.__name__) is kind
