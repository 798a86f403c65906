"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Constraints json-schema, regex, choice."""
    return [
        Component("constraint", name, f"spcore_constraints.constraints:{target}", summary, options=f"spcore_constraints.options:{target}Options",
                  requires=("llguidance>=1.0",), extra="constraints")
        for name, target, summary in (
            ("json-schema", "JsonSchema", "JSON that a schema describes"),
            ("regex", "Regex", "Text that a regular expression matches"),
            ("choice", "Choice", "One of several texts"),
        )
    ]  # fmt: skip
