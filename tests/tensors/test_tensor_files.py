from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import BertConfig, BertModel

from spcore.errors import ArtifactError, OutputError
from spcore.tensors.files import load_safetensors, save_safetensors


def items(count: int = 5) -> dict[str, torch.Tensor]:
    return {f"layer.{n}": torch.full((10,), float(n)) for n in range(count)}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(found[n].equal(t) for n, t in expected.items())


def test_one_file(tmp_path: Path) -> None:
    assert save_safetensors(iter(items().items()), tmp_path) == ["model.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert same(dict(load_safetensors(tmp_path)), items())
    assert same(dict(load_safetensors(tmp_path / "model.safetensors")), items())


def test_shards_hold_no_more_than_asked(tmp_path: Path) -> None:
    files = save_safetensors(items().items(), tmp_path, shard_bytes=80)
    shards = [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
    assert files == [*shards, "model.safetensors.index.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(files)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"]["layer.4"] == shards[2]
    assert same(dict(load_safetensors(tmp_path)), items())


def test_a_tensor_larger_than_a_shard_has_its_own(tmp_path: Path) -> None:
    save_safetensors(items(2).items(), tmp_path, shard_bytes=8)
    assert same(dict(load_safetensors(tmp_path)), items(2))


def test_transformers_opens_shards(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = BertModel(config)
    save_safetensors(model.state_dict().items(), tmp_path, shard_bytes=1000)
    config.save_pretrained(tmp_path)
    assert same(BertModel.from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_shared_and_viewed_memory_is_written_apart(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": whole, "same": whole, "row": whole[1], "turned": whole.T, "wide": torch.ones(1).expand(3, 2)}
    save_safetensors(tensors.items(), tmp_path)
    assert same(dict(load_safetensors(tmp_path)), {n: t.contiguous() for n, t in tensors.items()})


def test_a_name_given_twice_is_a_fault(tmp_path: Path) -> None:
    twice = [*items(1).items(), *items(1).items()]
    with pytest.raises(AssertionError, match="twice"):
        save_safetensors(twice, tmp_path)
    with pytest.raises(AssertionError, match="twice"):
        save_safetensors(twice, tmp_path, shard_bytes=8)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.safetensors: is missing"):
        list(load_safetensors(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"no header here, none at all")
    with pytest.raises(ArtifactError, match=r"model\.safetensors: cannot be read: .*damaged"):
        list(load_safetensors(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {"a": "../secret.safetensors"}}'])
def test_an_index_is_not_trusted(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"index\.json"):
        list(load_safetensors(tmp_path))


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.shard-0: cannot be written"):
        save_safetensors(items().items(), tmp_path / "nowhere")
