"""Numbers that are not the eager model's: the export fails, nothing is left, and the first layer that differs is named."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from exported import TRACE, bound, export, runner, save
from onnx import numpy_helper

from spcore.artifact import MANIFEST, Artifact, open_artifact
from spcore.components import default_registry
from spcore.errors import ArtifactError, OutputError, RefusalError
from spcore_onnx import check, graphs, tracing

Damage = Callable[[onnx.ModelProto], None]


@pytest.fixture
def artifact(tmp_path: Path, traced_once: None) -> Artifact:
    return open_artifact(save(tmp_path / "model"), default_registry())


def damaged(monkeypatch: pytest.MonkeyPatch, damage: Damage) -> None:
    """Every graph that is written is damaged at once."""
    write = graphs.save

    def save_damaged(model: ir.Model, file: Path, **where: bool) -> None:
        write(model, file, **where)
        proto = onnx.load(file)
        damage(proto)
        onnx.save(proto, file)

    monkeypatch.setattr(graphs, "save", save_damaged)


def changed(proto: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(t for t in proto.graph.initializer if t.name.endswith(name))
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))


def weight(path: str) -> Damage:
    def damage(proto: onnx.ModelProto) -> None:
        changed(proto, path, lambda array: array[::-1])

    return damage


def swapped(proto: onnx.ModelProto) -> None:
    for name in ("classifier.weight", "classifier.bias"):
        changed(proto, name, lambda array: array[[1, 0, 2]])


def frozen(proto: onnx.ModelProto) -> None:
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[1].dim_value = 17


CASES = {
    "a table": (weight("word_embeddings.weight"), "layer 'bert.embeddings'"),
    "a layer": (weight("layer.1.intermediate.dense.bias"), "layer 'bert.encoder.layer.1'"),
    "attention": (weight("layer.0.attention.self.value.bias"), "layer 'bert.encoder.layer.0'"),
    "the head": (weight("classifier.weight"), "the head"),
    "label order": (swapped, "the head"),
    "length": (frozen, "frozen to another size"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_graph_is_not_kept(case: str, artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (artifact.folder / MANIFEST).read_text()
    damage, words = CASES[case]
    damaged(monkeypatch, damage)
    with pytest.raises(ArtifactError, match=words) as caught:
        export(artifact)
    assert "\n" not in str(caught.value)
    assert not (artifact.folder / "onnx").exists()
    assert not [p for p in artifact.folder.iterdir() if p.name.startswith(".")]
    assert (artifact.folder / MANIFEST).read_text() == before
    assert "onnx" not in artifact.manifest


def test_what_is_there_stays_when_another_export_fails(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    export(artifact)
    before = (artifact.folder / "onnx" / "model.onnx").read_bytes()
    damaged(monkeypatch, swapped)
    with pytest.raises(ArtifactError):
        export(artifact)
    assert (artifact.folder / "onnx" / "model.onnx").read_bytes() == before
    runner(open_artifact(artifact.folder, default_registry()))


def test_the_module_is_not_its_own_oracle(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight of the module that is traced changes after it was loaded: the module that is compared with has the saved one."""
    trace = TRACE

    def tampered(module: torch.nn.Module, *args: Any) -> ir.Model:
        with torch.no_grad():
            module.get_parameter("bert.encoder.layer.0.output.dense.weight")[0].add_(0.1)
        return trace(module, *args)

    monkeypatch.setattr(tracing, "trace", tampered)
    with pytest.raises(ArtifactError, match=r"first to differ is layer 'bert\.encoder\.layer\.0'"):
        export(artifact)


def test_an_operator_that_cannot_be_exported(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "trace", TRACE)

    def odd(x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.matrix_exp(x[:, :1, :1].expand(-1, 2, 2))[:, :1, :1] * 0 + x

    module = type(artifact.model.build(bound(artifact).head))
    forward = module.forward
    monkeypatch.setattr(
        module, "forward", lambda self, **k: {n: odd(v[:, None])[:, 0] for n, v in forward(self, **k).items()}
    )
    with pytest.raises(RefusalError, match=r"export: .*matrix_exp"):
        export(artifact)
    assert not (artifact.folder / "onnx").exists()


@pytest.mark.parametrize("at", ["graph", "place"])
def test_a_full_disk(at: str, artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(artifact.folder / "onnx" / "model.onnx"))

    if at == "graph":
        monkeypatch.setattr(graphs, "save", full)
    else:
        monkeypatch.setattr("spcore.artifact.replace_folder", full)
    with pytest.raises(OutputError, match="no space left on the disk") as caught:
        export(artifact)
    assert "\n" not in str(caught.value)
    assert not (artifact.folder / "onnx").exists()
    assert "onnx" not in open_artifact(artifact.folder, default_registry()).manifest


def test_tensors_beside_the_graph(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spcore_onnx.graphs.LARGEST", 1024)
    report = export(artifact, quantise="dynamic")
    assert {"onnx/model.onnx_data", "onnx/model_quantized.onnx_data"} < set(report.files)
    modes = {file.stat().st_mode & 0o777 for file in (artifact.folder / "onnx").iterdir()}
    assert modes == {
        (artifact.folder / "config.json").stat().st_mode & 0o777
    }  # whoever may read the model may read these
    assert (artifact.folder / "onnx" / "model.onnx").stat().st_size < 200_000
    opened = open_artifact(artifact.folder, default_registry())
    inputs = {
        "input_ids": np.full((2, 3), 7),
        "token_type_ids": np.zeros((2, 3), int),
        "attention_mask": np.ones((2, 3), int),
    }
    for precision in ("float32", "int8"):
        assert runner(opened, precision=precision).run(inputs)["logits"].shape == (2, 3)
    file = artifact.folder / "onnx" / "model.onnx_data"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"model\.onnx_data: its checksum"):
        runner(opened)


def test_a_single_file_takes_the_place_of_two(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spcore_onnx.export.BESIDE", 1024)
    export(artifact, quantise="dynamic")
    places = artifact.folder / "onnx"
    assert {file.name for file in places.iterdir()} == {"model.onnx", "model.onnx_data", "model_quantized.onnx"}
    lower = (places / "model_quantized.onnx").read_bytes()
    report = export(artifact, single_file=True)
    assert report.files == ("onnx/model.onnx",)
    assert {file.name for file in places.iterdir()} == {"model.onnx", "model_quantized.onnx"}
    assert (places / "model_quantized.onnx").read_bytes() == lower  # of another precision: it stays
    opened = open_artifact(artifact.folder, default_registry())
    assert {name for name in opened.manifest["files"] if name.startswith("onnx/")} == {
        "onnx/model.onnx", "onnx/model_quantized.onnx",
    }  # fmt: skip
    ids = np.full((2, 3), 7)
    inputs = {"input_ids": ids, "token_type_ids": 0 * ids, "attention_mask": 0 * ids + 1}
    for precision in ("float32", "int8"):
        assert runner(opened, precision=precision).run(inputs)["logits"].shape == (2, 3)


def test_the_manifest_has_the_report(artifact: Artifact) -> None:
    report = export(artifact)
    told = json.loads((artifact.folder / MANIFEST).read_text())
    assert told["onnx"] == json.loads(json.dumps(report.details))
    assert told["onnx"]["inputs"] == ["input_ids", "token_type_ids", "attention_mask"]
    assert {"onnx/model.onnx", "model.safetensors"} <= set(told["files"])


def test_tolerances_follow_the_format() -> None:
    allowed = [check.tolerance(precision, 6, 384) for precision in ("float32", "float16", "bfloat16")]
    assert allowed == sorted(allowed)
    assert allowed[0] < 1e-4
    assert check.difference(np.zeros((1, 2)), np.zeros((1, 3)), None) == np.inf
    assert check.difference(np.array([[1.0, 30.0]]), np.array([[1.0, 10.0]]), np.array([[1, 0]])) == 0
