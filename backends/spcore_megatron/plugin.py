"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Nothing yet."""
    return []
