"""Options of this package's components."""

from __future__ import annotations

from pydantic import Field

from spcore.launching.options import ClusterOptions


class RayOptions(ClusterOptions):
    """Launcher `ray`."""

    address: str | None = Field(
        None,
        min_length=1,
        description="host:port of a cluster's head, or `auto` on one of its machines; null: what RAY_ADDRESS says, else a Ray of the run's "
        "own on this machine, which ends with it",
    )
    wait: float = Field(
        600, gt=0, lt=2**31, description="seconds to wait for nodes that are free, before the run is given up"
    )
    resources: dict[str, float] = Field(
        default_factory=dict, description="further resources of each node by name, as the cluster declares them"
    )
