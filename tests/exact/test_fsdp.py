"""What is `fsdp`'s own: copies, formats, ranks that have nothing to learn, what each rank stores, and what becomes of that."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner

from exact.processes import Processes, measure, registry_of
from exact.recipes import classification, fake, laid, language
from exact.test_cuts import same_gradients
from exact.test_memory import never_fits
from spcore.cli.app import app
from spcore.converting import to_checkpoint, to_hugging_face
from spcore.errors import OutputError, RunError, UserError
from spcore.files import sealed_files, sealed_text
from spcore.recipe import load_recipe
from spcore.testing.fakes import words
from spcore_torch.fsdp import FullyShardedEngine


def tensors(file: Path) -> dict[str, np.ndarray]:
    with safe_open(file, framework="np") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def curve(run: dict[str, Any]) -> list[float]:
    return [step["loss"] for step in run["steps"]]


def test_two_copies_of_two_parts(tmp_path: Path, four: Processes) -> None:
    """Hybrid: each pair of processes holds the model; gradients are summed over all four, microbatches without need for it are not."""
    tree, files = classification(tmp_path), [tmp_path / "one.npz", tmp_path / "four.npz"]
    wanted = measure(laid(tree, "single", 1), gradients=str(files[0]))
    hybrid = {"use": "fsdp", "shard_size": 2, "reshard_after_forward": False}
    found = four.measure(
        {**laid(tree, hybrid, 4, micro_batch_size=4, save_every=4), "output": str(tmp_path / "run")}, str(files[1])
    )
    assert curve(found) == pytest.approx(curve(wanted), rel=2e-5)
    assert [s["grad_norm"] for s in found["steps"]] == pytest.approx(
        [s["grad_norm"] for s in wanted["steps"]], rel=1e-4
    )
    same_gradients(dict(np.load(files[1])), dict(np.load(files[0])))
    stored = [set(tensors(file)) for file in sorted((tmp_path / "run").rglob("rank-*.safetensors"))]
    assert [len(names) > 1 for names in stored] == [True, True, False, False], "one copy is stored"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits_are_those_of_ddp(precision: str, tmp_path: Path, two: Processes) -> None:
    """Products alone are cast, from float32 parts; so rounding is the same, and what differs is the order of sums in float32."""
    tree = {**classification(tmp_path), "precision": precision}
    wanted, found = (two.measure(laid(tree, strategy, 2, micro_batch_size=8)) for strategy in ("ddp", "fsdp"))
    assert curve(found) == pytest.approx(curve(wanted), rel=1e-5)
    exact = two.measure(laid(classification(tmp_path), "ddp", 2, micro_batch_size=8))
    assert max(abs(a - b) for a, b in zip(curve(found), curve(exact), strict=True)) > 1e-5, "it is not float32"


def test_initial_weights_are_those_of_one_process(tmp_path: Path, two: Processes) -> None:
    """To the bit: at a learning rate that changes no float, what is saved is what was made."""
    tree = {**language("causal-lm", tmp_path), "optimizer": {"use": "adamw", "lr": 1e-30, "weight_decay": 0.0}}
    measure({**laid(tree, "single", 1, steps=1), "output": str(tmp_path / "one")})
    two.measure({**laid(tree, "fsdp", 2, steps=1), "output": str(tmp_path / "two")})
    ours, theirs = (tensors(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], value) for name, value in theirs.items())


@contextlib.contextmanager
def nothing_on_one(rank: int) -> Iterator[None]:
    """On rank 1 the loss depends on nothing that learns."""
    kind = words._MaskedWords
    plain = kind.loss

    def loss(self: Any, *given: Any) -> Any:
        terms = plain(self, *given)
        return [type(t)(t.name, t.sum.detach() * 0, t.coefficient) for t in terms] if rank == 1 else terms

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "loss", loss)
        yield


def test_a_rank_without_anything_to_learn_takes_part(tmp_path: Path, two: Processes) -> None:
    tree = {**fake("fake-masked-words"), "eval": {}}
    wanted, found = (
        two.measure(laid(tree, strategy, 2), around="exact.test_fsdp:nothing_on_one") for strategy in ("ddp", "fsdp")
    )
    assert curve(found) == pytest.approx(curve(wanted), rel=2e-5)
    assert found["steps"][0]["grad_norm"] > 0


def test_a_step_that_does_not_fit_ends_the_run() -> None:
    """A sweep is collective: nobody could begin it anew."""
    assert not FullyShardedEngine.recovers
    said = r"^cpu: not enough memory for a batch of 8 features, .*\. Try train\.micro_batch_size=4$"
    with never_fits(1), pytest.raises(RunError, match=said):
        measure(laid({**fake("fake-masked-words"), "eval": {}}, "fsdp", 1, micro_batch_size=8))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, four: Processes) -> Path:
    """A run's folder, of four processes, with a checkpoint at its end."""
    folder = tmp_path_factory.mktemp("sharded")
    tree = {**language("causal-lm", folder), "eval": {}}
    recipe = {**laid(tree, "fsdp", 4, save_every=4), "output": str(folder / "run")}
    four.measure(recipe)
    (folder / "run" / "recipe.yaml").write_text(load_recipe(recipe, {}, registry=registry_of()).to_yaml())
    return folder / "run"


def test_each_rank_stores_its_part(sharded: Path) -> None:
    """A quarter and no more, and torch's own reader puts them together: what the run saved as its model."""
    checkpoint, model = sharded / "checkpoints" / "step-00000004", tensors(sharded / "model.safetensors")
    files = sorted(checkpoint.glob("rank-*.safetensors"))
    sizes = [sum(v.nbytes for n, v in tensors(file).items() if n.startswith("model/")) for file in files]
    whole = sum(value.nbytes for value in model.values())
    assert len(files) == 4
    assert sum(sizes) == whole
    assert max(sizes) < 0.3 * whole, "tables whose rows do not divide make some a little larger"
    metadata = dcp.HuggingFaceStorageReader(str(checkpoint)).read_metadata().state_dict_metadata
    assert {n.removeprefix("model/"): tuple(e.size) for n, e in metadata.items() if n.startswith("model/")} == {
        name: value.shape for name, value in model.items()
    }
    assert {p.suffix for p in checkpoint.iterdir()} == {".safetensors", ".json"}, "nothing is pickled"


def test_the_format_before_parts_is_read(tmp_path: Path, two: Processes) -> None:
    """Where one file held everything, and no header said where it begins."""
    tree = {**classification(tmp_path), "eval": {}}
    wanted = measure({**laid(tree, "single", 1, save_every=2), "output": str(tmp_path / "one")})
    checkpoint = tmp_path / "old" / "checkpoints" / "step-00000002"
    shutil.copytree(tmp_path / "one" / "checkpoints" / "step-00000002", checkpoint)
    file = checkpoint / "rank-00000.safetensors"
    with safe_open(file, framework="np") as opened:
        numbers = opened.metadata()["numbers"]
    save_file(tensors(file), file, {"numbers": numbers})
    files = sealed_files(checkpoint, "xxh3_128")
    files.pop("manifest.json")
    (checkpoint / "manifest.json").write_text(sealed_text({"format": 1, "version": "0.1.0", "step": 2, "files": files}))
    found = two.measure({**laid(tree, "fsdp", 2), "output": str(tmp_path / "old")})
    assert curve(found) == pytest.approx(curve(wanted)[2:], rel=1e-6)


def test_converted_it_is_what_the_run_saved(sharded: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["convert", str(sharded), str(tmp_path / "hf"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "step": 4, "source": str(sharded / "checkpoints" / "step-00000004"), "folder": str(tmp_path / "hf"),
    }  # fmt: skip
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (sharded / name).read_bytes(), name


def test_parts_of_other_kinds_are_converted_too(tmp_path: Path, four: Processes) -> None:
    """Columns and rows of tensor parallelism, layers of a pipeline."""
    tree = {**language("causal-lm", tmp_path), "eval": {}}
    recipe = {**laid(tree, "tp2-pp2", 4, steps=2, save_every=2), "output": str(tmp_path / "run")}
    four.measure(recipe)
    (tmp_path / "run" / "recipe.yaml").write_text(load_recipe(recipe, {}, registry=registry_of()).to_yaml())
    to_hugging_face(tmp_path / "run", tmp_path / "hf", registry_of())
    ours, theirs = (tensors(tmp_path / name / "model.safetensors") for name in ("hf", "run"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], value) for name, value in theirs.items())


def test_and_back(sharded: Path, tmp_path: Path, two: Processes) -> None:
    """A run that starts from the checkpoint begins with the model's weights, as one whose source is the model."""
    converted = to_checkpoint(sharded, tmp_path / "run" / "checkpoints", registry_of())
    assert converted["folder"] == str(tmp_path / "run" / "checkpoints" / "step-00000000")
    tree = {**language("causal-lm", sharded.parent), "eval": {}}
    found = two.measure({**laid(tree, "fsdp", 2, steps=2), "output": str(tmp_path / "run")})
    again = {**tree, "model": {**tree["model"], "source": str(sharded)}}
    wanted = measure(laid(again, "single", 1, steps=2))
    assert curve(found) == pytest.approx(curve(wanted), rel=1e-5)


def test_what_cannot_be_converted_is_refused(sharded: Path, tmp_path: Path) -> None:
    registry = registry_of()
    (tmp_path / "other").mkdir()
    with pytest.raises(
        UserError,
        match=r"other: neither a run's folder nor a checkpoint in one\. Give the folder that has recipe\.yaml",
    ):
        to_hugging_face(tmp_path / "other", tmp_path / "hf", registry)
    with pytest.raises(UserError, match=r"other: no saved model: it has no slimpajama\.json"):
        to_checkpoint(tmp_path / "other", tmp_path / "hf", registry)
    with pytest.raises(OutputError, match="is there already"):
        to_hugging_face(sharded, sharded, registry)
