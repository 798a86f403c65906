"""Options of this package's components."""

from __future__ import annotations

from pydantic import Field, field_validator

from spcore.launching.options import ClusterOptions

OURS = {
    "nodes", "ntasks", "ntasks_per_node", "cpus_per_task", "gpus_per_node", "time", "signal", "output", "error", "open_mode", "array",
}  # fmt: skip
"""Options of sbatch that follow from others here, or that the run relies on."""


class SlurmOptions(ClusterOptions):
    """Launcher `slurm`."""

    time: int = Field(
        60, ge=1, lt=2**31, description="minutes that a job may take", json_schema_extra={"known_as": ["timeout_min"]}
    )
    signal: int = Field(
        120,
        ge=1,
        lt=2**16,
        description="seconds before the end of its time in which a job finishes the step and saves; the next of `max_restarts` goes on",
    )
    partition: str | None = Field(
        None, min_length=1, description="partition (queue) of the job; null: the cluster's default"
    )
    account: str | None = Field(None, min_length=1, description="account that the job is charged to")
    qos: str | None = Field(None, min_length=1, description="quality of service of the job")
    constraint: str | None = Field(None, min_length=1, description="features that the nodes must have")
    memory: int | None = Field(
        None, ge=1, lt=2**31, description="memory of each node in GB; null: the cluster's default"
    )
    extra: dict[str, str | int | bool] = Field(
        default_factory=dict, description="further options of sbatch by name, such as {reservation: tuesday}"
    )
    setup: list[str] = Field(
        default_factory=list, description="lines of shell before the processes start, such as `module load cuda`"
    )
    name: str = Field("slimpajama", min_length=1, description="name of the job")
    folder: str | None = Field(
        None,
        min_length=1,
        description="where job scripts and logs lie, on a file system of all nodes; null: `slurm` in the run's output",
    )
    poll: float = Field(
        30, gt=0, lt=2**31, description="seconds between two questions to the scheduler whether the job is there"
    )

    @field_validator("extra")
    @classmethod
    def _free(cls, extra: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        taken = [key for key in extra if key.replace("-", "_") in OURS]
        if taken:
            raise ValueError(f"{taken[0]!r} follows from the launcher's own options")
        return extra
