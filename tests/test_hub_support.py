"""The loopback Hub is only worth its name if the real client libraries cannot tell it from the true one.

Each check therefore runs in a process of its own, as a user's script does: the libraries read their addresses and
cache folders once, when they are imported.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.hub import Hub, put_glue, put_tiny_bert

BERT = "google-bert/bert-base-uncased"
SENTENCES = ("A charming and often affecting journey .", "Bleak and desperate .")
ROWS = [{"sentence": SENTENCES[index % 2], "label": 1 - index % 2, "idx": index} for index in range(8)]
TEST_ROWS = [{"sentence": SENTENCES[0], "label": -1, "idx": 0}]
PAIRS = [{"sentence1": "a cat", "sentence2": "a dog", "label": 2.5, "idx": 0}]
PAIR_FEATURES = {"sentence1": "string", "sentence2": "string", "label": "float32", "idx": "int32"}

# Notes every host a script looks up or connects to, and prints the script's answer as the last line.
PRELUDE = """
import json, sys
hosts = set()
def note(event, args):
    if event == "socket.getaddrinfo":
        hosts.add(str(args[0]))
    elif event == "socket.connect" and isinstance(args[1], tuple):
        hosts.add(args[1][0])
sys.addaudithook(note)
def failure(call, *args, **settings):
    try:
        call(*args, **settings)
    except Exception as error:
        return [kind.__name__ for kind in type(error).__mro__]
    return []
def finish(**answer):
    print(json.dumps(answer | {"hosts": sorted(hosts)}))
"""
LOAD_MODEL = """
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
name = "bert-base-uncased"
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
finish(tokens=tokenizer.tokenize("A CHARMING journey"), labels=model.num_labels, kind=type(model).__name__,
       hidden=AutoConfig.from_pretrained(name).hidden_size)
"""
LOAD_DATA = """
from datasets import load_dataset
sst2, stsb = load_dataset("nyu-mll/glue", "sst2"), load_dataset("nyu-mll/glue", "stsb")
finish(rows=[list(sst2[split]) for split in ("train", "validation", "test")],
       names=sst2["train"].features["label"].names, pairs=list(stsb["train"]))
"""
LOAD_OLD_NAME = """
from datasets import load_dataset
from huggingface_hub.errors import HfUriError
try:
    rows, refused = list(load_dataset("glue", "sst2", split="train")), ""
except HfUriError as error:
    rows, refused = [], str(error)
finish(rows=rows, refused=refused)
"""
BROWSE = """
from datasets import load_dataset
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, list_repo_files, snapshot_download
from transformers import AutoConfig
api, parquet = HfApi(), "sst2/train-00000-of-00001.parquet"
info = api.dataset_info("glue")
finish(
    files=sorted(list_repo_files("bert-base-uncased")),
    model=api.model_info("bert-base-uncased").id,
    data=info.id,
    same_commit=snapshot_download("glue", repo_type="dataset").endswith(info.sha),
    tree=[entry.path for entry in api.list_repo_tree("glue", repo_type="dataset", expand=True)],
    paths=[entry.path for entry in api.get_paths_info("glue", ["sst2", parquet, "nothing"], repo_type="dataset")],
    commits=len(api.list_repo_commits("bert-base-uncased")),
    middle=HfFileSystem().cat_file("datasets/nyu-mll/glue/" + parquet, start=1, end=4).decode(),
    no_repo=failure(hf_hub_download, "nobody/nothing", "config.json"),
    no_repo_info=failure(api.model_info, "nothing"),
    no_file=failure(hf_hub_download, "bert-base-uncased", "nothing.json"),
    no_revision=failure(hf_hub_download, "bert-base-uncased", "config.json", revision="nowhere"),
    no_user=failure(api.whoami, token="hf_wrong"),
    no_model=failure(AutoConfig.from_pretrained, "nothing"),
    no_data=failure(load_dataset, "nobody/nothing"),
)
"""


class Client:
    """Runs scripts against one Hub, all with the same cache folder."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub = hub
        self._home = home

    def run(self, script: str, **settings: str) -> dict[str, Any]:
        """The script's answer; the environment is cleared of the tester's own Hugging Face settings and proxies."""
        foreign = ("HF_", "HUGGING", "TRANSFORMERS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        clean = {name: value for name, value in os.environ.items() if not name.upper().startswith(foreign)}
        env = clean | self.hub.environment | {"HF_HOME": str(self._home)} | settings
        command = [sys.executable, "-c", PRELUDE + script]
        done = subprocess.run(
            command, env=env, cwd=self._home, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    put_tiny_bert(folder, BERT, SENTENCES)
    put_glue(folder, "sst2", ROWS, ROWS[:2], TEST_ROWS)
    put_glue(folder, "stsb", PAIRS, PAIRS, features=PAIR_FEATURES)
    return folder


@pytest.fixture
def client(root: Path, tmp_path: Path) -> Iterator[Client]:
    with Hub(root) as hub:
        yield Client(hub, tmp_path)


def check_model(answer: Mapping[str, Any]) -> None:
    assert answer["tokens"] == ["a", "charming", "journey"]
    assert (answer["labels"], answer["kind"], answer["hidden"]) == (2, "BertForSequenceClassification", 64)


def check_data(answer: Mapping[str, Any]) -> None:
    assert answer["rows"] == [ROWS, ROWS[:2], TEST_ROWS]
    assert answer["names"] == ["negative", "positive"]
    assert answer["pairs"] == PAIRS


def test_model_loads_by_its_old_name_then_from_the_cache(root: Path, tmp_path: Path) -> None:
    with Hub(root) as hub:
        client = Client(hub, tmp_path)
        online = client.run(LOAD_MODEL)
        assert ("GET", "/api/models/bert-base-uncased", 307) in hub.requests
    check_model(online)
    assert online["hosts"] == ["127.0.0.1"]
    asked = len(hub.requests)
    offline = client.run(LOAD_MODEL, HF_HUB_OFFLINE="1")
    check_model(offline)
    assert offline["hosts"] == []
    assert len(hub.requests) == asked


def test_data_set_loads_then_from_the_cache(root: Path, tmp_path: Path) -> None:
    with Hub(root) as hub:
        client = Client(hub, tmp_path)
        online = client.run(LOAD_DATA)
    check_data(online)
    # `datasets` makes the viewer's name out of the endpoint's: no machine has it, and it does without.
    assert online["hosts"] == ["127.0.0.1", "datasets-server.127.0.0.1"]
    offline = client.run(LOAD_DATA, HF_HUB_OFFLINE="1")
    check_data(offline)
    assert offline["hosts"] == []


def test_data_set_by_its_old_name(client: Client) -> None:
    answer = client.run(LOAD_OLD_NAME)
    assert any(path.startswith("/datasets/glue/") and status == 307 for _, path, status in client.hub.requests)
    if answer["refused"]:
        # This huggingface_hub refuses a data set name without a namespace before it asks any Hub.
        assert "must be 'namespace/name'" in answer["refused"]
    else:
        assert answer["rows"] == ROWS


def test_listings_and_refusals_are_those_of_the_real_hub(client: Client) -> None:
    answer = client.run(BROWSE)
    assert answer["files"] == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    assert (answer["model"], answer["data"]) == (BERT, "nyu-mll/glue")
    assert answer["same_commit"]
    assert answer["tree"] == ["README.md", "sst2", "stsb"]
    assert answer["paths"] == ["sst2", "sst2/train-00000-of-00001.parquet"]
    assert answer["commits"] == 1
    assert answer["middle"] == "AR1"
    assert "RepositoryNotFoundError" in answer["no_repo"]
    assert "RepositoryNotFoundError" in answer["no_repo_info"]
    assert "EntryNotFoundError" in answer["no_file"]
    assert "RevisionNotFoundError" in answer["no_revision"]
    assert "HfHubHTTPError" in answer["no_user"]
    assert answer["no_model"][0] == "OSError"
    assert answer["no_data"][0] == "DatasetNotFoundError"
