"""The script that the project promises, verbatim: against a true Hub on loopback, then offline from the cache that left."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.hub import Hub
from support.hub_content import put_glue, put_model

ROOT = Path(__file__).resolve().parents[2]
GOOD, BAD = ("positive", "lovely", "bright", "happy", "great"), ("negative", "awful", "dull", "sad", "poor")
NOUNS = ("sentence", "story", "film", "meal", "day", "song", "book", "room")


def script() -> str:
    """The script, as the README has it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if 'load_model("bert-base-uncased")' in block)


def sentences(count: int, seed: int) -> list[dict[str, object]]:
    """Rows of a small sst2."""
    rng = random.Random(seed)
    rows: list[dict[str, object]] = []
    for n in range(count):
        label = n % 2
        word = rng.choice(GOOD if label else BAD)
        rows.append({"sentence": f"this is a {word} {rng.choice(NOUNS)}.", "label": label, "idx": n})
    return rows


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> Path:
    """A Hub's content: a small BERT as bert-base-uncased, a small glue/sst2."""
    root = tmp_path_factory.mktemp("hub")
    put_model(root, "google-bert/bert-base-uncased", Path(minilm))
    put_glue(root, "sst2", sentences(480, 1), sentences(60, 2))
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Hub's cache."""
    return tmp_path_factory.mktemp("home")


def execute(code: str, folder: Path, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script as its user would."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    settings = {**kept, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", **env}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=settings, capture_output=True, text=True, timeout=280, check=False
    )


def check_result(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 0, done.stderr
    answers = eval(done.stdout, {"__builtins__": {}})  # what `print` of plain dicts gave
    assert [answer["label"] for answer in answers] == ["positive", "negative"]
    assert all(0.5 < answer["score"] <= 1 for answer in answers)
    assert (folder / "finetuned_model" / "model.safetensors").is_file()


def test_the_promised_script_from_a_hub_and_then_offline(hub_root: Path, home: Path, tmp_path: Path) -> None:
    online, offline = tmp_path / "online", tmp_path / "offline"
    online.mkdir()
    offline.mkdir()
    with Hub(hub_root) as hub:
        check_result(execute(script(), online, home, HF_ENDPOINT=hub.endpoint), online)
        assert any("bert-base-uncased" in path for _, path, _ in hub.requests)
    check_result(execute(script(), offline, home, HF_HUB_OFFLINE="1"), offline)


def test_an_unknown_model_is_one_line(hub_root: Path, tmp_path: Path) -> None:
    code = "import slimpajama\ntry:\n    slimpajama.load_model('bert-base-uncase')\nexcept slimpajama.SourceError as e:\n    print(e)"
    (tmp_path / "bert-base-uncased").mkdir()
    (tmp_path / "bert-base-uncased" / "config.json").write_text("{}")
    with Hub(hub_root) as hub:
        done = execute(code, tmp_path, tmp_path / "empty", HF_ENDPOINT=hub.endpoint)
        assert done.returncode == 0, done.stderr
        assert hub.endpoint in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
    for part in ("bert-base-uncase'", "not found", "nearest at hand: 'bert-base-uncased'"):
        assert part in done.stdout
