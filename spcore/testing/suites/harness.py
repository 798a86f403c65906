"""Kind `harness`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spcore.errors import UserError
from spcore.interfaces.harness import Harness
from spcore.testing.checks import Check, Where, Wrong, check, run_checks
from spcore.testing.contracts import against
from spcore.testing.report import Report

_STRANGE = "no-harness-has-a-task-of-this-name"


class _Unasked:
    """A `Subject` that must not be asked."""

    source, processor = "nothing", None

    def score(self, asked: Any) -> Any:
        """Not here."""
        raise AssertionError("the model was asked for a task that is not known")

    def generate(self, prompts: Any, **settings: Any) -> Any:
        """Not here."""
        raise AssertionError("the model was asked for a task that is not known")


@check("harness.contract", "it has the members of Harness", gate=True)
def harness_contract(harness: Any) -> Iterator[Wrong]:
    """Subclass or not."""
    yield from against(harness, Harness, "harness")


@check("harness.refuses", "a task that it does not know is a UserError of one line, before the model is asked")
def harness_refuses(harness: Any) -> Iterator[Wrong]:
    """No model is there at all."""
    try:
        harness.evaluate(_Unasked(), [_STRANGE])
    except UserError as error:
        if "\n" in str(error) or _STRANGE not in str(error):
            yield Wrong(f"the message {error}", f"one line that names {_STRANGE!r}")
        return
    yield Wrong(f"figures of task {_STRANGE!r}", "a UserError")


CHECKS: tuple[Check, ...] = (harness_contract, harness_refuses)


def check_harness(harness: Any, *, where: Where = Where()) -> Report:  # noqa: B008 -- frozen
    """Check a harness, without a model and without data."""
    return run_checks(CHECKS, harness, where)
