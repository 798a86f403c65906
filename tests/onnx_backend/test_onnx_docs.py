"""docs/onnx.md: its commands, run in order on a tiny saved model, and its tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from exported import LABELS, save
from typer.testing import CliRunner

from spcore.cli.app import app
from spcore_onnx.options import FILES, ExportOptions, RuntimeOptions

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "onnx.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("traced_once")
def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("runs/reviews"))
    Path("rows.jsonl").write_text("".join(f'{{"text": "a b {name}", "label": "{name}"}}\n' for name in LABELS))
    (block,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S)
    lines = block.splitlines()
    assert len(lines) == 6
    for line in lines:
        words = shlex.split(line.replace("--split test ", "").replace("builtin/reviews", "rows.jsonl"))
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, f"{line}: {done.output} {done.exception}"
    head, *rows = done.stdout.splitlines()  # the last compares
    assert head.split() == ["runtime", "provider", "rows_per_second", "p50_ms", "p99_ms", "memory_mb", "accuracy"]
    assert [row.split()[:3] for row in rows[:2]] == [
        ["onnx", "precision=float32", "cpu"],
        ["onnx", "precision=int8", "cpu"],
    ]
    assert [row.split()[:2] for row in rows[2:]] == [["torch", "dtype=float32"], ["torch", "dtype=bfloat16"]]


def test_options_and_files_are_listed() -> None:
    names = [*RuntimeOptions.model_fields, *FILES.values()]
    assert [name for name in names if name not in PAGE] == []
    assert [name for name in ExportOptions.model_fields if f"--{name.replace('_', '-')}" not in PAGE] == []
