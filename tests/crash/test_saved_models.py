"""A real saved model: what is torn or damaged is noticed wherever it is opened, and another takes its place whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import slimpajama
from crash.fake_runs import files_of
from crash.test_full_disk import ROWS
from spcore.files import read_sealed
from support.hub_content import put_tiny_bert

SETTINGS = {"train.steps": 1, "train.epochs": None}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, `one` and `two`, that differ by their seed."""
    root = tmp_path_factory.mktemp("models")
    put_tiny_bert(root, "t", [row["text"] for row in ROWS], hidden_size=16, layers=1, heads=2, max_length=64)
    for seed, name in enumerate(("one", "two")):
        slimpajama.load_model(root / "models" / "t").finetune(
            ROWS, "text-classification", output=root / name, progress=False, seed=seed, settings=SETTINGS
        )
    return root


def harm(file: Path, at: int) -> None:
    """Flip a bit."""
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("at", [3, -200])
def test_a_flipped_bit_is_noticed_whatever_the_model_is_opened_for(
    name: str, at: int, models: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models / "one", tmp_path / "model"))
    harm(folder / name, at)

    def predict() -> object:
        return slimpajama.load_model(folder).predict("a good film")

    def embed() -> object:
        return slimpajama.load_model(folder).embed(["a good film"])

    def finetune() -> object:
        return slimpajama.load_model(folder).finetune(ROWS, "text-classification", settings=SETTINGS)

    for use in (predict, embed, finetune):
        with pytest.raises(slimpajama.ArtifactError) as caught:
            use()
        assert str(caught.value).startswith(f"{folder / name}: ")
        assert "\n" not in str(caught.value)


def test_a_torn_file_is_noticed_before_anything_is_read(models: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models / "one", tmp_path / "model"))
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(10_000)
    with pytest.raises(
        slimpajama.ArtifactError, match=r"model\.safetensors: 10000 bytes, the manifest says \d+: the file is torn"
    ):
        slimpajama.load_model(folder)


def test_another_model_takes_the_place_of_one_that_is_there(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    one, two = slimpajama.load_model(models / "one"), slimpajama.load_model(models / "two")
    one.save(folder)
    (folder / "notes.txt").write_text("mine")
    two.save(folder)
    of_two = {name: content for name, content in files_of(models / "two").items() if name in files_of(folder)}
    assert files_of(folder) == {**of_two, "notes.txt": b"mine"}
    assert "checkpoints" not in {p.name for p in folder.iterdir()}
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert slimpajama.load_model(folder).predict("a good film") == two.predict("a good film")


def test_a_file_in_the_place_of_a_model_is_refused(models: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(slimpajama.OutputError, match=r"is a file; a model is a folder$"):
        slimpajama.load_model(models / "one").save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_manifest_describes_every_file_of_the_model(models: Path) -> None:
    manifest = read_sealed(models / "one" / "slimpajama.json")
    around = {"slimpajama.json", "recipe.yaml", "run.json", "metrics.jsonl"}
    assert set(manifest["files"]) == set(files_of(models / "one")) - around
    sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    assert sizes == {name: len(content) for name, content in files_of(models / "one").items() if name in sizes}


def test_a_model_with_a_list_of_files_and_no_checksums_still_opens(models: Path, tmp_path: Path) -> None:
    """As the first version wrote it."""
    folder = Path(shutil.copytree(models / "one", tmp_path / "model"))
    manifest = read_sealed(folder / "slimpajama.json")
    manifest["files"] = [*manifest["files"], "slimpajama.json"]
    (folder / "slimpajama.json").write_text(json.dumps(manifest))
    model = slimpajama.load_model(folder)
    assert model.predict("a good film") == slimpajama.load_model(models / "one").predict("a good film")
    assert slimpajama.load_model(model.save(tmp_path / "copy")).predict("a good film") == model.predict("a good film")
