"""One small tree of errors. Every error a person can meet is a `SlimPajamaError`: a line that says what it is about,
what was found, what is allowed and what to do. The command line prints that line and exits with `exit_code`; the Python
API raises it. Errors of other libraries are translated where they enter.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SlimPajamaError(Exception):
    """Base of the tree. `exit_code` is 2 for what a person typed or supplied, 1 for what broke while running.

    message: one line, without a final full stop where it ends in a value.
    hint: what to do about it, appended as a second sentence. placed: whether the line names its place in a recipe already.
    """

    exit_code = 1
    placed = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}. {hint}" if hint else message)


class UserError(SlimPajamaError):
    """What the user typed or supplied cannot be honoured."""

    exit_code = 2


class RecipeError(UserError):
    """A key or a value of a recipe is wrong."""


class ComponentError(UserError):
    """A component is unknown, ambiguous, broken or lacks a distribution it needs."""


class RefusalError(UserError):
    """Parts that are each right do not go together."""


class SourceError(UserError):
    """A model or a data set was not found where it was looked for, or could not be opened."""


class DataError(UserError):
    """A data file's content cannot be read as what it should be; names file and line."""


class ArtifactError(UserError):
    """A saved model's folder is incomplete, damaged, of a newer format, or not one at all."""


class CheckpointError(SlimPajamaError):
    """Training state on disk is damaged or does not fit this run."""


class OutputError(SlimPajamaError):
    """A file or folder could not be written: disk full, not writable, in use."""


class RunError(SlimPajamaError):
    """A run could not go on."""


class OutOfMemory(RunError):
    """A step's microbatches do not fit into memory; nothing was changed."""


class RunCancelled(SlimPajamaError):
    """The run was stopped on request, at a step's end; what it had reached is saved where it saves."""

    exit_code = 130


class RankError(RunError):
    """A process of a run failed.

    rank: global rank. step: optimizer steps done, None before the first. traceback: the remote one, whole.
    """

    def __init__(self, rank: int, step: int | None, traceback: str) -> None:
        self.rank, self.step, self.traceback = rank, step, traceback
        last = traceback.strip().splitlines()[-1] if traceback.strip() else "no traceback"
        super().__init__(f"rank {rank} failed{'' if step is None else f' at step {step}'}: {last}")


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, or None if none is near. Case does not count."""
    lowered = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def unknown(what: str, name: str, choices: Iterable[str], *, limit: int = 12) -> str:
    """The sentence for a name that is not known: subject, value, nearest match, what is allowed."""
    known = sorted(set(choices))
    near = nearest(name, known)
    listed = ", ".join(known[:limit]) + (f", ... ({len(known)} in all)" if len(known) > limit else "")
    guess = f"; did you mean {near!r}?" if near else ";"
    return f"unknown {what} {short(name)!r}{guess} known: {listed or 'none'}"


def short(text: str) -> str:
    """A text as it is, or its beginning where it is too long for a line."""
    return text if len(text) <= 80 else f"{text[:60]}..."
