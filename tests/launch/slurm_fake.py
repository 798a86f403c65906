"""Slurm's commands over the processes of this machine, as far as a launcher meets them: what is submitted is carried out.

    with cluster(folder) as path:      # a folder with sbatch, srun, scancel, sacct for the front of PATH

Jobs start at once, or when `go(folder)` lets them. A job's processes are one process group.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMANDS = ("sbatch", "srun", "scancel", "sacct", "squeue")
KILL = 3
"""Seconds between SIGTERM and SIGKILL of a job that is taken away; KillWait there."""


@contextlib.contextmanager
def cluster(folder: Path, *, held: bool = False) -> Iterator[Path]:
    """held: jobs wait for `go`. At the end nobody may be left."""
    (folder / "bin").mkdir(parents=True)
    for name in COMMANDS:
        file = folder / "bin" / name
        file.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {folder} {name} "$@"\n')
        file.chmod(0o755)
    if not held:
        go(folder)
    yield folder / "bin"
    for job in jobs(folder):
        if job["state"] in ("PENDING", "RUNNING"):
            _scancel(folder, [job["id"]])


def go(folder: Path) -> None:
    """Let jobs begin."""
    (folder / "go").touch()


def jobs(folder: Path) -> list[dict[str, Any]]:
    """Jobs so far, each with "id", "state", "options" of sbatch."""
    return [_job(folder, path.stem) for path in sorted(folder.glob("*.json"), key=lambda path: int(path.stem))]


def _job(folder: Path, number: str) -> dict[str, Any]:
    state = (folder / f"{number}.state").read_text()
    return {**json.loads((folder / f"{number}.json").read_text()), "state": state}


def _say(folder: Path, number: str, state: str) -> None:
    file = folder / f"{number}.state"
    file.with_suffix(".new").write_text(state)
    file.with_suffix(".new").replace(file)


def _sbatch(folder: Path, arguments: list[str]) -> int:
    (script,) = arguments
    text = Path(script).read_text()
    found = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.M))
    options = {key: shlex.split(value)[0] if value else True for key, value in found.items()}
    if options.get("partition") == "closed":
        print("sbatch: error: invalid partition specified: closed", file=sys.stderr)
        return 1
    number = str(time.time_ns() // 10**6 % 10**9)  # as in life, no number is there twice
    _say(folder, number, "PENDING")
    (folder / f"{number}.json").write_text(json.dumps({"id": number, "options": options}))
    command = [sys.executable, __file__, str(folder), "_run", number, script]
    subprocess.Popen(
        command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    print(f"Submitted batch job {number}")
    return 0


def _run(folder: Path, arguments: list[str]) -> int:
    """The life of a job."""
    number, script = arguments
    options = _job(folder, number)["options"]
    while not (folder / "go").exists():
        time.sleep(0.05)
        if _job(folder, number)["state"] != "PENDING":
            return 0
    nodes, tasks = int(options.get("nodes", 1)), int(options.get("ntasks-per-node", 1))
    environment = {
        **os.environ, "SLURM_JOB_ID": number, "SLURM_NTASKS": str(nodes * tasks), "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NTASKS_PER_NODE": str(tasks), "SLURM_JOB_NODELIST": "localhost",
    }  # fmt: skip
    place = {"%j": number, "%t": "0"}
    out = open(_placed(str(options.get("output", "/dev/null")), place), "ab")  # noqa: SIM115
    _say(folder, number, "RUNNING")
    process = subprocess.Popen(["bash", script], env=environment, stdout=out, stderr=out, start_new_session=True)
    (folder / f"{number}.group").write_text(str(process.pid))
    code = process.wait()
    cancelled = (folder / f"{number}.cancel").exists()
    _say(folder, number, "CANCELLED by 1000" if cancelled else "FAILED" if code else "COMPLETED")
    return 0


def _srun(folder: Path, arguments: list[str]) -> int:
    given: dict[str, str] = {}
    while arguments[0].startswith("-"):
        name, equals, value = arguments.pop(0)[2:].partition("=")
        given[name] = value if equals or name == "unbuffered" else arguments.pop(0)
    size, number = int(os.environ["SLURM_NTASKS"]), os.environ["SLURM_JOB_ID"]
    nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    tasks = []
    for rank in range(size):
        place = {"%j": number, "%t": str(rank)}
        files = {k: open(_placed(given[k], place), "ab") if k in given else None for k in ("output", "error")}  # noqa: SIM115
        own = {
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank % (size // nodes)),
            "SLURM_NODEID": str(rank * nodes // size),
        }
        tasks.append(
            subprocess.Popen(arguments, env={**os.environ, **own}, stdout=files["output"], stderr=files["error"])
        )
    for sent in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(sent, lambda number, _: [task.send_signal(number) for task in tasks if task.poll() is None])
    (folder / f"{number}.step").write_text(str(os.getpid()))
    codes = [task.wait() for task in tasks]
    return max(code if code >= 0 else 128 - code for code in codes)


def _scancel(folder: Path, arguments: list[str]) -> int:
    sent = [argument for argument in arguments if argument.startswith("--signal=")]
    (number,) = [argument for argument in arguments if not argument.startswith("-")]
    if sent:
        os.kill(int((folder / f"{number}.step").read_text()), signal.Signals[f"SIG{sent[0].partition('=')[2]}"])
        return 0
    (folder / f"{number}.cancel").touch()
    if _job(folder, number)["state"] == "PENDING":
        _say(folder, number, "CANCELLED by 1000")
        return 0
    group = int((folder / f"{number}.group").read_text())
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        until = time.monotonic() + KILL
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)
    return 0


def _sacct(folder: Path, arguments: list[str]) -> int:
    number = arguments[arguments.index("-j") + 1]
    print("JobID|State|NodeList")
    print(f"{number}|{_job(folder, number)['state']}|localhost")
    return 0


def _placed(text: str, place: dict[str, str]) -> str:
    for name, value in place.items():
        text = text.replace(name, value)
    return text


if __name__ == "__main__":
    carry = {"sbatch": _sbatch, "_run": _run, "srun": _srun, "scancel": _scancel, "sacct": _sacct}[sys.argv[2]]
    sys.exit(carry(Path(sys.argv[1]), sys.argv[3:]))
