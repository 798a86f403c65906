"""Data sets of the Hub: from a Hub on loopback, from the cache, and what is said where there is neither. Each script runs in a
process of its own, since the libraries read their addresses once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.hub import Hub, put_glue

ROWS = [{"sentence": ("fine .", "dull .")[n % 2], "label": 1 - n % 2, "idx": n} for n in range(8)]
PAIRS = [{"sentence1": "a cat", "sentence2": "a dog", "label": score, "idx": 0} for score in (2.5, -1.0)]
PAIR_FEATURES = {"sentence1": "string", "sentence2": "string", "label": "float32", "idx": "int32"}
PRELUDE = """
import json
from spcore.errors import UserError
from spcore_data.files import Files
from spcore_data.glue import Glue
from spcore_data.hub import Hub
from spcore_data.options import FilesOptions, GlueOptions, HubOptions
MADE = {"files": (Files, FilesOptions), "glue": (Glue, GlueOptions), "hub": (Hub, HubOptions)}
def answer(use, split=None, skip=0, **options):
    dataset, model = MADE[use]
    try:
        source = dataset(model.model_validate(options)).open(split)
        again = dataset(model.model_validate(options)).open(split)
    except UserError as error:
        return {"error": type(error).__mro__[-5].__name__, "said": str(error)}
    schema = source.schema
    return {
        "rows": source.read(range(source.length)) if source.length is not None else
            [row for shard in range(16) for row in source.stream(shard, 16, skip)],
        "labels": schema.columns["label"].labels,
        "counts": schema.columns["label"].counts, "task": schema.default_task, "options": schema.task_options,
        "map": schema.column_map, "same": source.fingerprint == again.fingerprint,
    }
"""


def ask(home: Path, questions: Mapping[str, tuple[str, dict[str, Any]]], **environment: str) -> dict[str, Any]:
    """Answers of a fresh process; the tester's own settings of Hugging Face do not reach it."""
    clean = {k: v for k, v in os.environ.items() if not k.upper().startswith(("HF_", "HUGGING", "HTTP", "ALL_PROXY"))}
    path = os.pathsep.join(p for p in sys.path if p)
    home.mkdir(exist_ok=True)
    environment = {**clean, "HF_HOME": str(home), "PYTHONPATH": path, **environment}
    asked = json.dumps({key: {"use": use, **options} for key, (use, options) in questions.items()})
    code = f"{PRELUDE}\nprint(json.dumps({{k: answer(**q) for k, q in json.loads({asked!r}).items()}}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for found in answers.values():
        assert "\n" not in found.get("said", "")
    return answers


LOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("glue", {"name": "SST-2"}),
    "test": ("glue", {"name": "sst2", "split": "test"}),
    "scores": ("glue", {"name": "stsb"}),
    "hub": ("hub", {"source": "hf:nyu-mll/glue", "name": "sst2", "split": "validation"}),
    "files": ("files", {"source": "nyu-mll/glue", "name": "sst2", "split": "validation"}),
    "no split": ("glue", {"name": "sst2", "split": "tset"}),
    "no name": ("hub", {"source": "nyu-mll/glue"}),
    "wrong name": ("hub", {"source": "nyu-mll/glue", "name": "stsv"}),
    "no data set": ("hub", {"source": "nyu-ml/glue"}),
    "no revision": ("hub", {"source": "nyu-mll/glue", "name": "sst2", "revision": "nowhere"}),
    "no file": ("files", {"source": "reviws"}),
    "reading": ("files", {"source": "nyu-mll/glue", "delimiter": ";"}),
}


def check(answers: Mapping[str, Any], place: str) -> None:
    """What holds online and from the cache."""
    train, test = answers["train"], answers["test"]
    assert train["rows"] == ROWS
    assert (train["labels"], train["counts"]) == (["negative", "positive"], {"1": 4, "0": 4})
    assert train["task"] == "text-classification"
    assert train["options"] == {"metric": "accuracy", "problem_type": "single_label_classification"}
    assert train["map"] == {"text": "sentence", "label": "label"}
    assert train["same"]
    assert (test["rows"][0]["label"], test["labels"], test["counts"]) == (None, ["negative", "positive"], {})
    assert [row["label"] for row in answers["scores"]["rows"]] == [2.5, None]
    assert answers["scores"]["options"] == {"metric": "pearson_spearman", "problem_type": "regression"}
    assert answers["hub"] == answers["files"]
    assert answers["hub"]["rows"] == ROWS[:2]
    assert answers["hub"]["task"] == "text-classification"
    said = {key: answer["said"] for key, answer in answers.items() if "said" in answer}
    assert {answers[key]["error"] for key in said} == {"UserError"}
    assert "unknown split 'tset'; did you mean 'test'? known: test, train, validation" in said["no split"]
    assert "has several configurations" in said["no name"]
    assert "sst2, stsb. Say which: data.name=NAME" in said["no name"]
    assert "unknown configuration 'stsv'; did you mean 'stsb'? known: sst2, stsb" in said["wrong name"]
    assert "did you mean 'nyu-mll/glue', which is cached?" in said["no data set"]
    assert place in said["no data set"]
    assert "'nyu-mll/glue'" in said["no revision"]
    assert "'nowhere'" in said["no revision"]
    assert "no such file; did you mean 'reviews'? and as a data set 'reviws': cannot be had" in said["no file"]
    assert "no such file, and `delimiter` is for files" in said["reading"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    put_glue(folder, "sst2", ROWS, ROWS[:2], [{"sentence": "so .", "label": -1, "idx": 0}])
    put_glue(folder, "stsb", PAIRS, PAIRS, features=PAIR_FEATURES)
    return folder


def test_from_the_hub_and_then_from_the_cache(root: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "reviews").mkdir(parents=True)
    with Hub(root) as hub:
        online = ask(home, LOADS, **hub.environment)
    check(online, f"on the Hub at {hub.endpoint}")
    offline = ask(home, LOADS, HF_HUB_OFFLINE="1")
    check(offline, f"in the offline cache {home} (HF_HUB_OFFLINE is set)")
    for key in ("train", "test", "scores", "hub"):
        assert offline[key] == online[key]


def test_offline_with_an_empty_cache(tmp_path: Path) -> None:
    questions: dict[str, tuple[str, dict[str, Any]]] = {
        "hub": ("hub", {"source": "org/name", "name": "part", "revision": "v2"}),
        "files": ("files", {"source": "org/name"}),
        "word": ("files", {"source": "imdb"}),
        "glue": ("glue", {"name": "sst2"}),
    }
    answers = ask(tmp_path / "home", questions, HF_HUB_OFFLINE="1")
    place = f"looked for in the offline cache {tmp_path / 'home'} (HF_HUB_OFFLINE is set); cached are: none"
    for answer in answers.values():
        assert place in answer["said"]
    assert "data set 'org/name', configuration 'part', revision 'v2'" in answers["hub"]["said"]
    assert "data 'imdb': no such file; and as a data set 'imdb'" in answers["word"]["said"]
    assert answers["glue"]["said"].startswith("glue 'sst2': data set 'nyu-mll/glue'")
    assert "data.folder=FOLDER" in answers["glue"]["said"]


def test_as_a_stream(root: Path, tmp_path: Path) -> None:
    """From the Hub one file a split: it is the first shard. Of a folder's three files each is a shard."""
    home, folder = tmp_path / "home", tmp_path / "folder"
    folder.mkdir()
    for n in range(3):
        lines = [{"text": f"text {n} {k}", "label": k, "more": {"k": [k]}} for k in range(4)]
        (folder / f"part-{n}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "part.jsonl").write_text('{"text": "a"}\n' * 3 + '{"text": \n')
    glue = {"source": "nyu-mll/glue", "name": "sst2", "streaming": True}
    own = {"source": str(folder), "streaming": True}
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "train": ("hub", glue), "later": ("hub", {**glue, "skip": 3}), "test": ("hub", {**glue, "split": "test"}),
        "no split": ("hub", {**glue, "split": "tset"}), "no data set": ("hub", {**glue, "source": "nyu-ml/glue"}),
        "folder": ("hub", own), "folder later": ("hub", {**own, "skip": 3}), "broken": ("hub", {**own, "source": str(broken)}),
    }  # fmt: skip
    with Hub(root) as hub:
        found = ask(home, asked, **hub.environment)
    train = found["train"]
    assert (train["rows"], found["later"]["rows"]) == (ROWS, ROWS[3:])
    assert (train["labels"], train["counts"], train["same"]) == (["negative", "positive"], None, True)
    assert (train["task"], train["map"]) == ("text-classification", {"text": "sentence", "label": "label"})
    assert found["test"]["rows"][0]["label"] is None
    assert "unknown split 'tset'; did you mean 'test'?" in found["no split"]["said"]
    assert "data set 'nyu-ml/glue', configuration 'sst2': cannot be had" in found["no data set"]["said"]
    assert found["folder"]["rows"][5] == {"text": "text 1 1", "label": 1, "more": {"k": [1]}}
    assert [row["text"] for row in found["folder later"]["rows"]] == ["text 0 3", "text 1 3", "text 2 3"]
    assert found["broken"]["said"].startswith(f"data {str(broken)!r}: ")
