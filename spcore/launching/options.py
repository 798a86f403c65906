"""Options that launchers over several machines have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

_NAMES: dict[str, Any] = {"known_as": ["num_processes", "nproc_per_node", "world_size", "num_gpus", "gpus", "devices"]}


class ClusterOptions(BaseModel):
    """Of a launcher over a scheduler."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    processes: int = Field(
        1, ge=1, lt=2**16, description="processes to start, as many on each node", json_schema_extra=_NAMES
    )
    nodes: int = Field(
        1,
        ge=1,
        lt=2**16,
        description="machines that the processes are on",
        json_schema_extra={"known_as": ["num_nodes", "nnodes"]},
    )
    cpus_per_process: int = Field(1, ge=1, lt=2**16, description="processors of each process")
    gpu: bool = Field(False, description="whether each process has a GPU of its own")
    max_restarts: int = Field(
        0, ge=0, lt=2**31, description="how often all are started again from the last checkpoint after one failed"
    )
    host: str | None = Field(
        None,
        min_length=1,
        description="name or address under which the nodes reach the machine that starts the run, which they keep a connection to; null: "
        "the name that it has itself",
    )

    @model_validator(mode="after")
    def _even(self) -> ClusterOptions:
        if self.processes % self.nodes:
            raise ValueError(f"{self.processes} processes are not as many on each of {self.nodes} nodes")
        return self
