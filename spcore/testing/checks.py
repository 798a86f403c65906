"""How a suite is written: a tuple of checks, each a named generator of what is wrong with a case."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from spcore.testing.report import Finding, Report, Skipped


@dataclass(frozen=True)
class Wrong:
    """One thing wrong: what was found, what was expected."""

    found: str
    expected: str


class CannotCheck(Exception):
    """Raised by a check that lacks what it needs; its text says what."""


class DoesNotApply(Exception):
    """Raised by a check of something that the part does not have and need not have; it then leaves no trace."""


@dataclass(frozen=True)
class Check:
    """name: "kind.what". meaning: one line, what holds where nothing is found. gate: the checks after it make no sense
    where it finds something."""

    name: str
    meaning: str
    run: Callable[[Any], Iterator[Wrong]]
    gate: bool = False


def check(name: str, meaning: str, *, gate: bool = False) -> Callable[[Callable[[Any], Iterator[Wrong]]], Check]:
    """Decorator: a generator of `Wrong` over a case becomes a `Check`."""
    return lambda function: Check(name, meaning, function, gate)


@dataclass(frozen=True)
class Where:
    """The plugin and the component ("task/my-task") under test."""

    plugin: str = ""
    component: str = "part"


def run_checks(checks: Iterable[Check], case: Any, where: Where) -> Report:
    """Run checks in order. Whatever a check raises is a finding: the part under test is somebody else's code, and one that
    breaks must not hide what the other checks say (Ctrl-C passes)."""
    report = Report()
    closed: str | None = None
    for item in checks:
        if closed is not None:
            report.skipped.append(Skipped(where.plugin, where.component, item.name, f"{closed} has findings"))
            continue
        try:
            wrong = list(item.run(case))
        except DoesNotApply:
            continue
        except CannotCheck as error:
            report.skipped.append(Skipped(where.plugin, where.component, item.name, str(error)))
            continue
        except (Exception, SystemExit) as error:
            wrong = [Wrong(_raised(error), item.meaning)]
        report.ran.append((where.component, item.name))
        report.findings += [Finding(where.plugin, where.component, item.name, w.found, w.expected) for w in wrong]
        if wrong and item.gate:
            closed = item.name
    return report


def _raised(error: BaseException) -> str:
    """ "TypeError: ... (tasks.py, line 12)": the error in one line, and the last line of code it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.rpartition('/')[2]}, line {frames[-1].lineno})" if frames else ""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}{place}"


def shown(value: Any, limit: int = 120) -> str:
    """A value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else f"{text[:limit]}..."
