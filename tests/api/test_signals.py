"""Ctrl-C on the command line: the step is finished, the state saved, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.hub_content import put_tiny_bert

ROWS = [
    {"text": f"a {word} film", "label": label} for word, label in (("good", "yes"), ("bad", "no"), ("fine", "yes"))
] * 40


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_a_step_and_the_same_command_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    put_tiny_bert(tmp_path, "test/tiny", [row["text"] for row in ROWS])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    command = [
        sys.executable, "-m", "slimpajama", "finetune", str(tmp_path / "models" / "test" / "tiny"), "--task", "text-classification",
        "--data", "rows.jsonl", "--output", "run", "--set", "train.global_batch_size=4", "--set", "train.epochs=40",
        "--set", "loggers=[{use: progress, every: 1}, jsonl]",
    ]  # fmt: skip
    first = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("step 3 "):
            first.send_signal(number)
            break
    _, rest = first.communicate(timeout=120)
    assert first.returncode == 130, rest
    assert "the same command goes on from there" in rest
    assert "Traceback" not in rest
    saved = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert len(saved) == 1
    step = int(saved[0].name.removeprefix("step-"))
    assert 3 <= step < 1200
    second = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert second.stderr is not None
    lines = [next(second.stderr) for _ in range(12)]
    second.kill()
    second.communicate()
    assert any(f"going on after step {step}" in line for line in lines)
    assert any(line.startswith(f"step {step + 1} ") for line in lines)
