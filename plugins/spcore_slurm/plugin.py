"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Launcher `slurm`."""
    return [
        Component(
            "launcher",
            "slurm",
            "spcore_slurm.launcher:Slurm",
            "A job of Slurm, through submitit",
            options="spcore_slurm.options:SlurmOptions",
            requires=("submitit>=1.5",),
            extra="slurm",
        )
    ]
