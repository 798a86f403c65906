"""Launcher `slurm`: a job of Slurm, submitted through submitit; each node's task keeps the processes there.

The caller stays, shows what the run tells and takes the job away when it goes; `slimpajama launch --print` makes a script that needs no
caller. Nothing that submitit pickles is read here: results come as JSON.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spcore.errors import RunError
from spcore.imports import undisturbed
from spcore.interfaces.launcher import Control, Emit, Launcher, RunResult, RunSpec
from spcore.interfaces.logger import Warned
from spcore.interfaces.strategy import Refusal
from spcore.launching.cluster import Content, Nodes, carried_out, keep
from spcore.launching.worker import refusals
from spcore_slurm.options import SlurmOptions

COMMANDS = ("sbatch", "srun", "scancel")
SOON = 1.0
"""Seconds between two questions to the scheduler about a job that is expected to end."""


class Slurm(Launcher):
    """A job, and up to `max_restarts` further ones."""

    scripts_all = True

    def __init__(self, options: SlurmOptions) -> None:
        self.options, self.processes = options, options.processes

    def check(self, spec: RunSpec) -> list[Refusal]:
        """Refuses where there is no Slurm, or no place for logs."""
        found = refusals(spec, "slurm", self.options.max_restarts)
        missing = [name for name in COMMANDS if shutil.which(name) is None]
        if missing:
            why = f"Slurm's commands are not on PATH: {', '.join(missing)}"
            found.append(Refusal("launch 'slurm'", why, "start it on a login node of the cluster, or use launch=local"))
        if self._folder(spec) is None:
            why = "scripts and logs need a folder that all nodes see"
            found.append(Refusal("launch 'slurm'", why, "give output, or launch.folder"))
        return found

    def launch(self, spec: RunSpec, events: Emit, control: Control) -> RunResult:
        """See `Launcher.launch`. Raises as `spcore.launching.cluster.carried_out`, RunError where sbatch takes no job."""
        o = self.options
        above = self._folder(spec)
        assert above is not None, "refused by `check`"
        above.mkdir(parents=True, exist_ok=True)
        nodes = Nodes(o.nodes, o.processes // o.nodes, o.host or socket.gethostname(), o.max_restarts)

        def start(told: Content) -> _Job:
            job = self._submitted(told, above)
            message = f"Slurm job {job.number} is submitted; its logs are in {job.folder}"
            events(Warned(time=time.time(), message=message, step=None))
            return job

        return carried_out(spec, events, control, nodes, start)

    def script(self, run: Sequence[str]) -> str:
        """A script for `sbatch`, whose processes are started by `srun`."""
        o = self.options
        named = {**self._parameters(), "ntasks_per_node": o.processes // o.nodes, "cpus_per_task": o.cpus_per_process}
        named["signal"] = f"TERM@{o.signal}"
        lines = [f"#SBATCH --{key.replace('_', '-')}{_value(value)}" for key, value in named.items()]
        start = shlex.join(["srun", "--kill-on-bad-exit=1", f"--cpus-per-task={o.cpus_per_process}", *run])
        return "\n".join(["#!/bin/bash", *lines, *o.setup, start, ""])

    def _folder(self, spec: RunSpec) -> Path | None:
        output = spec.recipe.get("output")
        if self.options.folder is not None:
            return Path(self.options.folder).expanduser().absolute()
        return Path(output) / "slurm" if output else None

    def _parameters(self) -> dict[str, Any]:
        """Options of sbatch that are the same whatever a task is."""
        o = self.options
        named = {
            "job_name": o.name, "nodes": o.nodes, "time": o.time, "partition": o.partition, "account": o.account, "qos": o.qos,
            "constraint": o.constraint, "gpus_per_node": o.processes // o.nodes if o.gpu else None,
            "mem": None if o.memory is None else f"{o.memory}GB",
        }  # fmt: skip
        further = {key.replace("-", "_"): value for key, value in o.extra.items()}
        return {k: v for k, v in (named | further).items() if v is not None and v is not False}

    def _submitted(self, told: Content, above: Path) -> _Job:
        """A job that carries this out. Its folder is the user's alone: the token lies in it."""
        with undisturbed():
            os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")  # it would log to this process's stdout
            import submitit

        folder = Path(tempfile.mkdtemp(prefix=f"attempt-{told['attempt']}-", dir=above))
        executor = submitit.SlurmExecutor(folder, max_num_timeout=0)
        cpus = self.options.cpus_per_process * told["processes"]
        executor.update_parameters(
            ntasks_per_node=1, cpus_per_task=cpus, signal_delay_s=self.options.signal, setup=self.options.setup or None,
            srun_args=[f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
            additional_parameters={**self._parameters(), "no_requeue": True},  # what goes on is ours to say
        )  # fmt: skip
        try:
            job = executor.submit(on_node, dict(told))
        except submitit.core.utils.FailedJobError as error:
            said = str(error).strip().splitlines()
            raise RunError(f"launch 'slurm': sbatch took no job: {said[-1] if said else 'it said nothing'}") from error
        return _Job(job, folder, self.options.poll)


class _Job:
    """A job that was submitted. poll: seconds between two questions to the scheduler."""

    def __init__(self, job: Any, folder: Path, poll: float) -> None:
        self._job, self.folder, self._poll = job, folder, poll
        self._asked, self._over, self.number = time.monotonic(), False, str(job.job_id)

    def over(self, *, soon: bool = False) -> str | None:
        """See `spcore.launching.cluster.Job`."""
        if not self._over and time.monotonic() - self._asked >= (min(self._poll, SOON) if soon else self._poll):
            self._over = bool(self._job.watcher.is_done(self.number, mode="force"))
            self._asked = time.monotonic()
        return f"Slurm job {self.number} ended ({self._job.state}){self._said()}" if self._over else None

    def end(self) -> None:
        """See `spcore.launching.cluster.Job`. What was pickled is removed, logs stay."""
        if self.over(soon=True) is None:
            self._job.cancel(check=False)
        for file in self.folder.glob("*.pkl"):
            file.unlink(missing_ok=True)

    def _said(self) -> str:
        """The last line of its logs."""
        logs = sorted(self.folder.glob("*.err"))
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()[-1:]]
        return f": {lines[0]}; its logs are in {self.folder}" if lines else f"; its logs are in {self.folder}"


def _value(value: object) -> str:
    return "" if value is True else f"={shlex.quote(str(value))}"


def on_node(told: Mapping[str, Any]) -> None:
    """A task of the job, one a node: keeps the processes there. Leaves with 1 where one failed, so that the accounting shows it."""
    import submitit

    def stopped(stop: Callable[[], None]) -> None:
        for number in (signal.SIGUSR2, signal.SIGTERM):  # its time is up; it makes way for another
            signal.signal(number, lambda *_: stop())

    if any(keep(told, submitit.JobEnvironment().global_rank, stopped).values()):
        raise SystemExit(1)
