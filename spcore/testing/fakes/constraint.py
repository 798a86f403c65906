"""A constraint that needs no library."""

from __future__ import annotations

import numpy as np

from spcore.interfaces.model import Processor
from spcore.interfaces.runtime import Constraint, Grammar, Matcher

_MOST = 3


class FakeConstraint(Constraint):
    """One to three tokens of even ids."""

    def bind(self, processor: Processor) -> Grammar:
        """Works with any processor."""
        even = np.arange(processor.vocabulary_size) % 2 == 0
        even[[n for n in processor.special_ids if n < len(even)]] = False
        return _Even(even)


class _Even:
    """Implements `Grammar`."""

    def __init__(self, even: np.ndarray) -> None:
        self._even = even

    def start(self) -> Matcher:
        """At no token."""
        return _Place(self._even, 0)


class _Place:
    """Implements `Matcher`."""

    def __init__(self, even: np.ndarray, made: int) -> None:
        self._even, self._made = even, made

    @property
    def finished(self) -> bool:
        """From one token on."""
        return self._made > 0

    def allowed(self) -> np.ndarray:
        """Even ids, until there are three."""
        return self._even & (self._made < _MOST)

    def advance(self, token: int) -> None:
        """One more."""
        assert self.allowed()[token], f"token {token} was not allowed"
        self._made += 1

    def copy(self) -> Matcher:
        """At the same token."""
        return _Place(self._even, self._made)
