"""README's commands, run in order as they stand there, and what the pages say of a run that needs a model."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from docs_run.docs_copy import copied
from spcore import SlimPajamaError, assemble, default_registry, load_recipe

ROOT = Path(__file__).resolve().parents[2]
SHORT = {
    "finetune": ["--set", "train.epochs=0.4"], "run runs/reviews/recipe.yaml": ["train.epochs=0.4"],
    "pretrain": ["--steps", "2", "--set", "train.global_batch_size=1"],
    "run docs/recipes/shakespeare.yaml": ["train.steps=2", "train.global_batch_size=1", "eval.data.stride=null"],
}  # fmt: skip
"""What makes runs short: 6 of 45 steps; 2 of those from nothing."""


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> dict[str, Any]:
    """README's bash blocks: command line -> (exit code, stdout, stderr); "folder": where. The texts that they name are its pages."""
    folder = tmp_path_factory.mktemp("readme")
    copied(folder)
    text = "\n\n".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))
    for name in ("corpus.txt", "tinyshakespeare.txt"):
        (folder / name).write_text(text[:40_000], encoding="utf-8")
    program = Path(sys.executable).with_name("slimpajama")
    results: dict[str, Any] = {"folder": folder}
    for line in "".join(_blocks("README.md", "bash")).splitlines():
        words = [minilm if word == "MODEL" else word for word in shlex.split(line, comments=True)]
        if not words:
            continue
        assert words[0] == "slimpajama", line
        short = [more for start, more in SHORT.items() if " ".join(words[1:]).startswith(start)]
        command = [str(program), *words[1:], *(short[0] if short else [])]
        ran = subprocess.run(
            command,
            cwd=folder,
            env=dict(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        results[line] = (ran.returncode, ran.stdout, ran.stderr)
    return results


def _one(done: dict[str, Any], start: str) -> tuple[int, str, str]:
    (line,) = [line for line in done if line.startswith(f"slimpajama {start}")]
    found: tuple[int, str, str] = done[line]
    return found


def test_every_command_succeeds(done: dict[str, Any]) -> None:
    failed = {line: found for line, found in done.items() if line != "folder" and found[0] != 0}
    assert not failed
    assert len(done) == 14


def test_json_is_json(done: dict[str, Any]) -> None:
    metrics = json.loads(_one(done, "evaluate")[1])
    assert 0 < metrics["accuracy"] <= 1
    assert metrics["rows"] == 160
    (answer,) = json.loads(_one(done, "predict")[1])
    assert answer["label"] in ("negative", "positive")
    assert 0.5 <= answer["score"] <= 1


def test_the_folder_is_as_described(done: dict[str, Any]) -> None:
    for run in ("reviews", "again"):
        folder = done["folder"] / "runs" / run
        names = {
            "config.json",
            "model.safetensors",
            "slimpajama.json",
            "README.md",
            "recipe.yaml",
            "metrics.jsonl",
            "report.json",
        }
        assert names <= {path.name for path in folder.iterdir()}
        events = {json.loads(line)["event"] for line in (folder / "metrics.jsonl").read_text().splitlines()}
        assert {"run_started", "step", "checkpointed", "run_ended"} <= events
        assert json.loads((folder / "report.json").read_text())["train"]["rows_used"] == 480


def test_transformers_gives_the_same_answer(done: dict[str, Any]) -> None:
    import transformers

    pipe = transformers.pipeline("text-classification", model=str(done["folder"] / "runs" / "reviews"), device="cpu")
    (answer,) = json.loads(_one(done, "predict")[1])
    (theirs,) = pipe(["I have already booked again."])
    assert theirs["label"] == answer["label"]
    assert theirs["score"] == pytest.approx(answer["score"], abs=1e-5)


def test_lists_are_for_people(done: dict[str, Any]) -> None:
    assert "text-classification" in _one(done, "plugins list")[1]
    assert "weight_decay" in _one(done, "plugins show")[1]
    assert "version of torch" in _one(done, "doctor")[1]


def test_refusals_with_a_model_read_as_shown(tmp_path: Path, minilm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = "recipe.yaml"
    Path(recipe).write_text(f"model: {minilm}\ntask: text-classification\ndata: builtin/reviews\noutput: run\n")
    lines = _blocks("docs/recipes.md", "console")[1].splitlines()
    for command, line in zip(lines[::2], lines[1::2], strict=True):
        words = shlex.split(command)[4:]
        size = int(words[words.index("--world-size") + 1]) if "--world-size" in words else None
        resolved = load_recipe(recipe, [word for word in words if "=" in word], registry=default_registry())
        with pytest.raises(SlimPajamaError) as caught:
            assemble(resolved, default_registry(), world_size=size)
        assert f"error: {caught.value}" == line


def test_plugins_check_reads_as_shown(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\nimport weather_words.plugin\nfrom spcore import Registry\n"
        "from spcore.testing import check_plugin\nregistry = Registry(entry_points=False)\n"
        "registry.register(weather_words.plugin, name='weather')\nprint(check_plugin(registry, 'weather'))"
    )
    example = str(ROOT / "docs" / "example_plugin")
    ran = subprocess.run(
        [sys.executable, "-c", script, example], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    (block,) = _blocks("docs/plugins.md", "console")
    assert block.splitlines() == ["$ slimpajama plugins check weather", *ran.stdout.splitlines()]


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    script = ROOT / "docs" / "quickstart.py"
    ran = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=1200, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = re.search(r"accuracy on 160 held-out reviews\W+([\d.]+)\W+majority class: ([\d.]+)", ran.stdout)
    assert found, ran.stdout
    assert float(found[1]) > float(found[2]) + 0.2
    assert (tmp_path / "runs" / "quickstart" / "slimpajama.json").is_file()
