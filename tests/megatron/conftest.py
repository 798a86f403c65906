from __future__ import annotations

from parity.conftest import four, two

__all__ = ["four", "two"]
