"""Launcher `env`: under torchrun, and what it reads of other starters' environments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exact.processes import measure
from exact.recipes import classification, laid
from spcore.errors import RefusalError
from spcore_torch.env import Started

ENVIRONMENTS: list[tuple[dict[str, str], Started | None]] = [
    ({}, None),
    (
        {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node-a", "MASTER_PORT": "1234"},
        Started(3, 4, 1, "node-a", 1234),
    ),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "pod-0"}, Started(0, 2, 0, "pod-0", 29500)),  # Kubernetes: one process a pod
    (
        {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "gpu[07-09,12],login", "SLURM_JOB_ID": "4012345"},
        Started(5, 8, 1, "gpu07", 22345),
    ),
    (
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "box", "SLURM_JOB_ID": "7"},
        Started(0, 1, 0, "box", 20007),
    ),
    ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, Started(0, 1, 0, "127.0.0.1", 29500)),
    # torchrun inside of a Slurm job: the inner one counts
    (
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "5"},
        Started(1, 2, 1, "h", 5),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("environment", "expected"), ENVIRONMENTS)
def test_what_starters_say(environment: dict[str, str], expected: Started | None) -> None:
    assert Started.of(environment) == expected


@pytest.mark.parametrize(
    ("environment", "said"),
    [({"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x'"), ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not in")],
)
def test_what_cannot_be_understood_is_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(RefusalError, match=said):
        Started.of(environment)


def torchrun(folder: Path, tree: dict[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps(tree))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "slimpajama",
        "run",
    ]
    return subprocess.run(
        [*command, str(recipe), *more], capture_output=True, text=True, cwd=folder, env={**os.environ}, timeout=300
    )


def test_under_torchrun_a_run_is_the_same(tmp_path: Path) -> None:
    tree = classification(tmp_path)
    whole = measure(laid(tree, "single", 1))
    alone = {**laid(tree, "ddp", 2), "launch": "env", "loggers": ["jsonl"], "output": str(tmp_path / "run")}
    done = torchrun(tmp_path, alone, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["steps"] == 4, "one result, of one process"
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [event["loss"] for event in events if event["event"] == "step"]
    assert found == pytest.approx([step["loss"] for step in whole["steps"]], rel=2e-5)
    assert events[-1]["event"] == "run_ended"
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_alone_it_is_refused_in_one_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(
        json.dumps({**laid(classification(tmp_path), "ddp", 1), "launch": "env", "output": str(tmp_path / "run")})
    )
    done = subprocess.run(
        [sys.executable, "-m", "slimpajama", "run", str(recipe)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "launch 'env': neither RANK and WORLD_SIZE" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
