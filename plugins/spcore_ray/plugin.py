"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Launcher `ray`."""
    return [
        Component(
            "launcher",
            "ray",
            "spcore_ray.launcher:Ray",
            "Processes on a Ray cluster",
            options="spcore_ray.options:RayOptions",
            requires=("ray>=2.40",),
            extra="ray",
        )
    ]
