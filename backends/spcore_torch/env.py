"""Launcher `env`: this process is one of a run's already. torchrun, Kubernetes' training operators and others say so by RANK and
WORLD_SIZE, Slurm's srun and Open MPI by names of their own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from spcore.errors import RefusalError
from spcore.interfaces.launcher import Control, Emit, Launcher, RunResult, RunSpec
from spcore.interfaces.strategy import Refusal
from spcore_torch.options import EnvOptions

_NAMES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
)
"""Rank, number of processes, rank on the node; of several starters the innermost's come first."""
PORT = 29500
"""torchrun's own, where the starter names none."""


@dataclass(frozen=True)
class Started:
    """Where the environment says that this process stands, and where rank 0 listens."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Started | None:
        """What an environment says; None where nobody has started several processes."""
        for names in _NAMES:
            if all(name in environment for name in names[:2]):
                rank, size, local = (_number(environment, name) for name in names)
                return cls(rank, size, local, _address(environment, size), _port(environment))
        return None


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "0")  # a starter of one process a node gives no rank on it
    if not value.isdigit():
        raise RefusalError(f"launch 'env': {name}={value!r} in the environment is no number")
    return int(value)


def _address(environment: Mapping[str, str], size: int) -> str:
    if "MASTER_ADDR" in environment:
        return environment["MASTER_ADDR"]
    nodes = environment.get("SLURM_JOB_NODELIST", "")
    # "gpu[07-09,12],login": the first name of the first group; srun keeps rank 0 there.
    first = re.match(r"([^\[,]+)(?:\[(\w+))?", nodes)
    if first:
        return first.group(1) + (first.group(2) or "")
    if size == 1:
        return "127.0.0.1"
    raise RefusalError("launch 'env': MASTER_ADDR is not in the environment; set it to the host of rank 0")


def _port(environment: Mapping[str, str]) -> int:
    if "MASTER_PORT" in environment:
        return _number(environment, "MASTER_PORT")
    job = environment.get("SLURM_JOB_ID", "")
    return 20000 + int(job) % 10000 if job.isdigit() else PORT  # jobs that share a node do not share it


class Env(Launcher):
    """Joins the processes that are there. Rank 0 keeps the run's folder and tells the loggers. SIGTERM to any stops all."""

    joins = scripts_all = True

    def __init__(self, options: EnvOptions) -> None:
        self.options, self.started = options, Started.of(os.environ)
        wanted = options.nodes * (options.processes_per_node or 1)
        self.processes = self.started.world_size if self.started and not options.processes_per_node else wanted
        self.leads = self.started is None or self.started.rank == 0

    def check(self, spec: RunSpec) -> list[Refusal]:
        """Refuses where nobody has started this process as one of several, or of another number."""
        if self.started is None:
            why = "neither RANK and WORLD_SIZE nor Slurm's or Open MPI's variables are in the environment"
            return [Refusal("launch 'env'", why, "start it with torchrun or srun, or use launch=local")]
        if spec.layout.world_size != self.started.world_size:
            why = f"the layout has {spec.layout.world_size} processes, the environment {self.started.world_size}"
            return [Refusal("launch 'env'", why, "make the sizes agree")]
        return []

    def script(self, run: Sequence[str]) -> str:
        """See `Launcher.script`: torchrun, the same on every node."""
        o = self.options
        if o.processes_per_node is None:
            raise RefusalError(
                "launch.processes_per_node: not given; say how many processes torchrun starts on each node"
            )
        if o.nodes == 1:
            return torchrun(["--standalone"], o.processes_per_node, run)
        if o.address is None:
            raise RefusalError(f"launch.address: not given; say which of the {o.nodes} machines the others meet at")
        host, _, port = o.address.partition(":")
        meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={host}:{port or PORT}", "--rdzv-id=slimpajama"]
        return torchrun([f"--nnodes={o.nodes}", *meeting], o.processes_per_node, run)

    def launch(self, spec: RunSpec, events: Emit, control: Control) -> RunResult:
        """See `Launcher.launch`. events: rank 0's alone. What the run raises here is raised as it is."""
        from spcore.session import run_rank

        assert self.started is not None, "refused by `check`"
        with _environment(self.started):
            return run_rank(spec, spec.layout.place(self.started.rank, self.started.local_rank), events, control)


def torchrun(how: Sequence[str], processes: int, run: Sequence[str]) -> str:
    """The command of a node. run: see `Launcher.script`; its first word is a module's name too."""
    return shlex.join(["torchrun", *how, f"--nproc-per-node={processes}", "-m", *run])


@contextlib.contextmanager
def _environment(started: Started) -> Iterator[None]:
    """The variables that torch's process groups read, for starters that set others."""
    wanted = {
        "RANK": str(started.rank), "WORLD_SIZE": str(started.world_size), "LOCAL_RANK": str(started.local_rank),
        "MASTER_ADDR": started.address, "MASTER_PORT": str(started.port),
    }  # fmt: skip
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
