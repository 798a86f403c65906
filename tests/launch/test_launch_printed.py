"""`slimpajama launch --print`: what starts a run on every node, for each launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from exact.recipes import classification, laid
from spcore.cli.app import app

RUN = "slimpajama run recipe.json train.seed=3"
PRINTED: list[tuple[dict[str, Any], str]] = [
    ({"use": "inline"}, RUN),
    ({"use": "local", "processes": 2}, f"torchrun --standalone --nproc-per-node=2 -m {RUN} launch=env"),
    (
        {"use": "local", "processes": 2, "max_restarts": 3},
        f"torchrun --standalone --max-restarts=3 --nproc-per-node=2 -m {RUN} launch=env",
    ),
    ({"use": "env", "processes_per_node": 4}, f"torchrun --standalone --nproc-per-node=4 -m {RUN}"),
    (
        {"use": "env", "nodes": 2, "processes_per_node": 4, "address": "node-a:1234"},
        f"torchrun --nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=node-a:1234 --rdzv-id=slimpajama --nproc-per-node=4 -m {RUN}",
    ),
    (
        {"use": "slurm", "processes": 4, "nodes": 2, "time": 90, "partition": "gpu", "gpu": True, "setup": ["module load cuda"], "extra": {"exclusive": True}},
        "#!/bin/bash\n#SBATCH --job-name=slimpajama\n#SBATCH --nodes=2\n#SBATCH --time=90\n#SBATCH --partition=gpu\n"
        "#SBATCH --gpus-per-node=2\n#SBATCH --exclusive\n#SBATCH --ntasks-per-node=2\n#SBATCH --cpus-per-task=1\n#SBATCH --signal=TERM@120\n"
        f"module load cuda\nsrun --kill-on-bad-exit=1 --cpus-per-task=1 {RUN} launch=env",
    ),
    ({"use": "ray", "processes": 2}, RUN),
    (
        {"use": "ray", "processes": 4, "nodes": 2, "address": "head:6379"},
        "# on the first machine\nray start --head --port=6379\n# on each of the other 1\nray start --address=head:6379\n"
        f"# then, on the first\n{RUN}",
    ),
]  # fmt: skip
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"use": "env"}, "launch.processes_per_node: not given"),
    ({"use": "env", "nodes": 2, "processes_per_node": 1}, "launch.address: not given"),
]


def recipe(folder: Path, launch: dict[str, Any], **train: Any) -> None:
    alone = launch["use"] == "inline"
    tree = laid(classification(folder), "single" if alone else "ddp", 1, **train)
    (folder / "recipe.json").write_text(json.dumps({**tree, "launch": launch, "output": str(folder / "run")}))


@pytest.mark.parametrize(("launch", "expected"), PRINTED, ids=lambda one: one["use"] if isinstance(one, dict) else "")
def test_what_is_printed(
    launch: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Slurm and without Ray: they are where it is used."""
    recipe(tmp_path, launch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    done = CliRunner().invoke(app, ["launch", "recipe.json", "train.seed=3", "--print"], catch_exceptions=False)
    assert done.stdout == expected + "\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("launch", "said"), REFUSED)
def test_what_says_too_little_is_refused(launch: dict[str, Any], said: str, tmp_path: Path) -> None:
    recipe(tmp_path, launch)
    command = [sys.executable, "-m", "slimpajama", "launch", str(tmp_path / "recipe.json"), "--print"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_print_it_runs(tmp_path: Path) -> None:
    recipe(tmp_path, {"use": "inline"})
    done = CliRunner().invoke(app, ["launch", str(tmp_path / "recipe.json"), "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["steps"] == 4


def written(folder: Path, launch: dict[str, Any]) -> list[str]:
    """`slimpajama launch` of a sharded run in a folder, as a command."""
    folder.mkdir()
    recipe(folder, launch, save_every=2)
    tree = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps({**tree, "strategy": "fsdp", "loggers": ["jsonl"]}))
    return [sys.executable, "-m", "slimpajama", "launch", str(folder / "recipe.json")]


def left(folder: Path) -> tuple[list[Any], bytes]:
    """Steps and weights of its run."""
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["step"], line["loss"], line["grad_norm"]) for line in lines if line["event"] == "step"]
    return steps, (folder / "run" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_printed_command_on_two_nodes(tmp_path: Path) -> None:
    """Two torchruns that meet, with two processes each: what `local` computes with four, to the bit."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = f"127.0.0.1:{port}"
    command = written(tmp_path / "nodes", {"use": "env", "nodes": 2, "processes_per_node": 2, "address": address})
    shown = subprocess.run([*command, "--print"], capture_output=True, text=True, check=True, timeout=120).stdout
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    piped: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    nodes = [subprocess.Popen(["sh", "-c", shown], env=environment, **piped) for _ in range(2)]
    for node in nodes:
        _, err = node.communicate(timeout=250)
        assert node.returncode == 0, err[-2000:]
    alone = subprocess.run(written(tmp_path / "local", {"use": "local", "processes": 4}), **piped, timeout=250)
    assert alone.returncode == 0, alone.stderr[-2000:]
    found = left(tmp_path / "nodes")
    assert [step for step, *_ in found[0]] == [1, 2, 3, 4]
    assert found == left(tmp_path / "local")
