"""What is promised, on a CUDA device: `make test-gpu`, where there is one. The CPU's own result is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exact.processes import measure, registry_of
from exact.recipes import classification, fake, laid
from exact.test_cuts import same_gradients, same_rows
from exact.test_resume import SAVED, STEPS, resumed
from slimpajama import load_model
from spcore.errors import SlimPajamaError
from spcore.recipe import load_recipe
from spcore.session import assemble
from torch_backend import tiny_bert

pytestmark = pytest.mark.gpu
TASKS = ["classification", "fake-two-terms", "fake-next-word", "fake-masked-words", "fake-preference", "fake-contrast"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


def tree_of(task: str, folder: Path, **more: Any) -> dict[str, Any]:
    return {**(classification(folder) if task == "classification" else fake(task)), **more}


def on(device: str, tree: dict[str, Any], **train: Any) -> dict[str, Any]:
    """One process with a device."""
    return {**laid(tree, "single", 1, **train), "device": device}


def test_auto_is_the_gpu(folder: Path) -> None:
    registry = registry_of()
    tree = on("auto", classification(folder))
    session = assemble(load_recipe(tree, {}, registry=registry), registry)
    engine = session.strategy.engine(session.plan, session.plan.layout.place(0, 0))
    assert engine.facts()["device"] == "cuda:0"
    engine.close()


@pytest.mark.parametrize("task", TASKS)
def test_a_cut_changes_nothing_and_a_cpu_finds_the_same(task: str, folder: Path, tmp_path: Path) -> None:
    runs = {
        name: measure(
            on(device, tree_of(task, folder), micro_batch_size=size),
            gradients=str(tmp_path / f"{name}.npz"),
        )
        for name, device, size in (("cpu", "cpu", 32), ("32", "cuda", 32), ("16", "cuda", 16), ("8", "cuda", 8))
    }
    wanted = runs["32"]
    for name in ("16", "8"):
        found = runs[name]
        assert found["rows"] == wanted["rows"]
        assert found["steps"][0]["loss"] == pytest.approx(wanted["steps"][0]["loss"], rel=1e-6)
        same_gradients(dict(np.load(tmp_path / f"{name}.npz")), dict(np.load(tmp_path / "32.npz")))
        same_rows(found["predictions"], wanted["predictions"])
    ours, theirs = ([s["loss"] for s in runs[name]["steps"]] for name in ("32", "cpu"))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)  # products summed in another order
    assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_resume(precision: str, folder: Path, tmp_path: Path) -> None:
    """Dropout on. CUDA's sums by atomic additions may differ in their last bits from run to run; draws may not."""
    tree = tree_of("classification", folder, precision=precision)
    tree["model"] = {**tree["model"], "dropout": 0.2}

    def run(output: Path) -> dict[str, Any]:
        more = {"global_batch_size": 20, "micro_batch_size": 4, "save_every": SAVED, "keep": 9}
        return measure({**on("cuda", tree, steps=STEPS, **more), "output": str(output)})

    whole = run(tmp_path / "whole")
    resumed(tmp_path / "whole", tmp_path / "again")
    again = run(tmp_path / "again")
    ours, theirs = [s["loss"] for s in again["steps"]], [s["loss"] for s in whole["steps"][SAVED:]]
    print(precision, "to the bit" if ours == theirs else "not to the bit", np.abs(np.subtract(ours, theirs)).max())
    rounding = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2, "fp16": 2e-3}[precision]  # of the format of the products
    assert ours == pytest.approx(theirs, rel=rounding)


@pytest.mark.parametrize(("precision", "off"), [("tf32", 2e-3), ("bf16", 3e-2), ("fp16", 5e-3)])
def test_precisions_follow_fp32(precision: str, off: float, folder: Path) -> None:
    wanted, found = (measure(on("cuda", tree_of("classification", folder, precision=p))) for p in ("fp32", precision))
    ours, theirs = ([s["loss"] for s in r["steps"]] for r in (found, wanted))
    assert ours == pytest.approx(theirs, rel=off)
    assert ours != theirs


def long_texts(folder: Path) -> dict[str, Any]:
    """A model and texts of 500 tokens: 32 rows need some 2 GB."""
    model = folder / "wide"
    if not model.exists():
        sizes = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048}
        tiny_bert.write(
            model, **sizes, max_position_embeddings=512, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            initializer_range=0.02,
        )  # fmt: skip
        settings = model / "tokenizer_config.json"
        settings.write_text(settings.read_text().replace('"model_max_length": 40', '"model_max_length": 512'))
        words = [" ".join(f"w{(n * 7 + i * i) % 60}" for i in range(500)) for n in range(64)]
        lines = [f'{{"text": "{text}", "label": "{"abc"[n % 3]}"}}\n' for n, text in enumerate(words)]
        (folder / "long.jsonl").write_text("".join(lines))
    return {
        "model": {"use": "transformers", "source": str(model)}, "task": {"use": "text-classification"},
        "data": {"use": "files", "source": str(folder / "long.jsonl"), "max_length": 512}, "optimizer": {"use": "adamw", "lr": 1e-4},
    }  # fmt: skip


def test_memory_that_is_really_short(folder: Path) -> None:
    """A limit below what a whole step takes, above what a part of it does: cut finer, same losses, told."""
    tree = on("cuda", long_texts(folder), micro_batch_size=32)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    wanted = measure(tree)
    peak, whole = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * peak / whole)
    try:
        found = measure(tree)
        torch.cuda.set_per_process_memory_fraction(0.02 * peak / whole)
        with pytest.raises(SlimPajamaError, match="not enough memory"):
            measure(tree)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [line for line in found["warned"] if "not enough memory" in line and "cuda:0" in line]
    ours, theirs = ([s["loss"] for s in r["steps"]] for r in (found, wanted))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_what_was_trained_there_runs_on_either(folder: Path, tmp_path: Path) -> None:
    tree = classification(folder)
    model = load_model(tree["model"]["source"], device="cuda")
    model.finetune(dataset=tree["data"]["source"], task="text-classification", epochs=1, batch_size=16)
    model.save(tmp_path / "saved")
    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11"]
    on = {device: load_model(str(tmp_path / "saved"), device=device).predict(text=texts) for device in ("cpu", "cuda")}
    for ours, theirs in zip(on["cuda"], on["cpu"], strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_a_device_that_is_not_there(folder: Path) -> None:
    with pytest.raises(SlimPajamaError, match="torch sees"):
        measure(on("cuda:99", tree_of("classification", folder)))
