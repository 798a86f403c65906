"""A plugin from outside, as its author would ship it: a wheel, in a fresh environment beside the project's wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "example_plugin"
BROKEN = {
    "raises_import": "import a_module_that_is_not_there\n",
    "raises_syntax": "def (:\n",
    "raises_exit": "raise SystemExit(3)\n",
}


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command; its output is kept."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env={**clean, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def succeed(*command: str | Path, cwd: Path, **env: str) -> str:
    """Run a command that must exit with 0; its stdout."""
    done = run(*command, cwd=cwd, **env)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with both wheels, and three plugins that break when imported. The dependencies are those of the
    environment that runs the tests, shown to the new one by a path; the project itself comes from its wheel."""
    place = tmp_path_factory.mktemp("stranger")
    wheels = place / "wheels"
    for source in (ROOT, EXAMPLE):
        succeed(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, source, cwd=place)
    succeed(sys.executable, "-m", "venv", place / "venv", cwd=place)
    python = place / "venv" / "bin" / "python"
    succeed(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", *sorted(wheels.glob("*.whl")), cwd=place)
    site = Path(succeed(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name, text in BROKEN.items():
        (site / f"{name}.py").write_text(text)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[spcore]\n{name} = {name}\n")
    return place / "venv"


def test_is_short() -> None:
    assert sum(len(path.read_text().splitlines()) for path in EXAMPLE.rglob("*.py")) < 120


def test_comes_from_its_wheel(venv: Path, tmp_path: Path) -> None:
    where = succeed(
        venv / "bin" / "python",
        "-c",
        "import spcore, spcore_torch; print(spcore.__file__, spcore_torch.__file__)",
        cwd=tmp_path,
    )
    assert all(str(venv) in path for path in where.split())


def test_trains_saves_loads_predicts(venv: Path, tmp_path: Path, minilm: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {minilm}\ntask: weather\ndata: weather\nprecision: weather-bf16\noptimizer: {{use: adamw, lr: 5.0e-4}}\n"
        "train: {epochs: 10, global_batch_size: 9}\nloggers: [jsonl]\noutput: run\n"
    )
    command = venv / "bin" / "slimpajama"
    done = json.loads(succeed(command, "run", recipe, "--json", cwd=tmp_path, OMP_NUM_THREADS="1"))
    assert done["steps"] == 60
    asked = ("predict", "run", "A pouring morning over the lake.", "An icy morning over the lake.", "--json")
    answers = json.loads(succeed(command, *asked, cwd=tmp_path, OMP_NUM_THREADS="1"))
    assert [answer["label"] for answer in answers] == ["rain", "snow"]
    manifest = json.loads((tmp_path / "run" / "slimpajama.json").read_text())
    assert manifest["plugins"]["task/weather"] == {
        "name": "weather",
        "distribution": "weather-words",
        "version": "0.1.0",
    }
    script = (
        "import json, transformers; from safetensors import safe_open\n"
        "model, info = transformers.AutoModel.from_pretrained('run', output_loading_info=True)\n"
        "names = list(safe_open('run/model.safetensors', 'pt').keys())\n"
        "print(json.dumps([type(model).__name__, sorted(info['missing_keys']), sorted(n for n in names if n.startswith('head.'))]))"
    )
    kind, missing, head = json.loads(succeed(venv / "bin" / "python", "-c", script, cwd=tmp_path).splitlines()[-1])
    assert kind == "BertModel"
    assert all(name.startswith("pooler.") for name in missing), (
        "the backbone opens whole; a custom head needs no pooler"
    )
    assert head == ["head.out.bias", "head.out.weight", "head.query.bias", "head.query.weight"]


def test_broken_plugins_cost_nothing(venv: Path, tmp_path: Path) -> None:
    command = venv / "bin" / "slimpajama"
    listed = json.loads(succeed(command, "plugins", "list", "--json", cwd=tmp_path))
    errors = {plugin["name"]: plugin["error"] for plugin in listed["plugins"] if plugin["error"]}
    assert set(errors) == set(BROKEN)
    assert "a_module_that_is_not_there" in errors["raises_import"]
    assert "SyntaxError" in errors["raises_syntax"]
    assert "SystemExit" in errors["raises_exit"]
    assert {"weather", "text-classification"} <= {c["name"] for c in listed["components"] if c["kind"] == "task"}
    doctor = run(command, "doctor", cwd=tmp_path)
    assert doctor.returncode == 1
    assert all(name in doctor.stdout for name in BROKEN)
    for words in (("--help",), ("--version",), ("plugins", "show", "task/weather"), ("plugins", "check", "weather")):
        succeed(command, *words, cwd=tmp_path)
