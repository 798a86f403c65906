"""Exported models at work: without torch, shared by threads, on the provider that was asked for; files that are no models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from exported import CUSTOM, LABELS, bound, export, save
from onnx import TensorProto, helper

from spcore.api import load_model
from spcore.artifact import open_artifact
from spcore.components import default_registry
from spcore.errors import ArtifactError, RefusalError, RunError
from spcore.testing import check_runtime
from spcore_onnx import machine, sessions
from spcore_onnx.options import RuntimeOptions
from spcore_onnx.runner import OnnxRunner
from spcore_onnx.runtime import OnnxRuntime
from tensors.tensor_fakes import Weighted

TEXTS = ["a b c", "z", "q" * 3, "x y " * 30, "🙂 中 ß", "a" + " b" * 5000, "!"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save(tmp_path_factory.mktemp("saved") / "model")
    export(open_artifact(folder, default_registry()))
    return folder


def test_answers_are_those_of_torch(folder: Path) -> None:
    eager, ours = load_model(folder), load_model(folder, runtime="onnx")
    for texts in (TEXTS, *[[text] for text in TEXTS]):
        for one, other in zip(eager.predict(texts), ours.predict(texts), strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    rows = [{"text": text, "label": LABELS[n % 3]} for n, text in enumerate(TEXTS)]
    theirs, found = eager.evaluate(rows).metrics, ours.evaluate(rows).metrics
    assert found == pytest.approx(theirs, abs=1e-5)


def test_nothing_heavy_is_imported_for_an_answer(folder: Path) -> None:
    code = (
        "import sys; from spcore.cli.app import app\n"
        "app(['predict', sys.argv[1], 'a b', '--runtime', 'onnx', '--json'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnx_ir', 'sklearn', 'scipy', 'pandas', 'datasets', 'pyarrow', 'yaml'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["label"] in LABELS


def test_an_export_after_loading_is_what_answers(tmp_path: Path) -> None:
    """The file is opened in the background as soon as a model is loaded: not the one that was there before, nor none."""
    model = load_model(save(tmp_path / "model"), runtime="onnx")
    with pytest.raises(ArtifactError, match="nothing is exported"):
        model.runner()
    model.export("onnx")
    again = load_model(model.source, runtime="onnx")
    first = again.artifact().manifest["onnx"]["created"]
    again.artifact().manifest["onnx"]["created"] = ""
    again.export("onnx")
    assert again.artifact().manifest["onnx"]["created"] >= first
    assert again.predict("a text") == model.predict("a text")


def test_threads_share_a_runner(folder: Path) -> None:
    model = load_model(folder, runtime={"use": "onnx", "threads": 1})
    expected = model.predict(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda n: model.predict(TEXTS), range(12)):
            assert found == expected


def test_it_says_where_it_runs(folder: Path) -> None:
    assert load_model(folder, runtime="onnx", device="cpu").runner().provider == "cpu"  # type: ignore[union-attr]


def test_the_suite_passes() -> None:
    report = check_runtime(OnnxRuntime(RuntimeOptions()))
    assert report.ok, report


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "precision": ({"precision": "int8"}, "cpu", "no int8 for runtime 'onnx', exported are float32.*--quantise dynamic"),
    "contradiction": ({"provider": "cuda"}, "cpu", "provider 'cuda' does not run on device 'cpu'"),
    "the other way": ({"provider": "cpu"}, "cuda:1", "provider 'cpu' does not run on device 'cuda:1'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_refused(case: str, folder: Path) -> None:
    options, device, words = REFUSED[case]
    artifact = open_artifact(folder, default_registry())
    with pytest.raises((ArtifactError, RefusalError), match=words):
        OnnxRuntime(RuntimeOptions(**options)).load(artifact, bound(artifact), device)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_no_silent_fall_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = open_artifact(folder, default_registry())
    real = onnxruntime.get_available_providers()
    with pytest.raises(RefusalError, match=r"has no provider 'cuda'|'cuda' did not start"):
        OnnxRuntime(RuntimeOptions()).load(artifact, bound(artifact), "cuda")
    allowed = OnnxRuntime(RuntimeOptions(allow_fallback=True)).load(artifact, bound(artifact), "cuda")
    assert allowed.provider == "cpu"
    # As onnxruntime-gpu does it: the provider is listed, does not start, and the CPU runs instead.
    monkeypatch.setattr(sessions.ort, "get_available_providers", lambda: ["CUDAExecutionProvider", *real])
    with pytest.raises(RefusalError, match="'cuda' did not start, ONNX Runtime would run on 'cpu' instead"):
        OnnxRuntime(RuntimeOptions()).load(artifact, bound(artifact), "cuda")
    opened = sessions.ort.InferenceSession

    def broken(file: str, *given: Any, providers: list[Any], **more: Any) -> Any:
        if len(providers) > 1:
            raise RuntimeError("libcudart.so.13: cannot open shared object file")
        return opened(file, *given, providers=providers, **more)

    monkeypatch.setattr(sessions.ort, "InferenceSession", broken)
    with pytest.raises(RefusalError, match=r"'cuda' did not start \(libcudart\.so\.13: cannot open"):
        OnnxRuntime(RuntimeOptions()).load(artifact, bound(artifact), "cuda")
    allowed = OnnxRuntime(RuntimeOptions(allow_fallback=True)).load(artifact, bound(artifact), "cuda")
    assert allowed.provider == "cpu"
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    assert sessions.placed("auto", "auto", False).provider == "cpu"
    monkeypatch.setattr(machine, "gpus", lambda: 1)
    assert sessions.placed("auto", "auto", False).provider == "cuda"


def test_outputs_of_another_task(folder: Path) -> None:
    artifact = open_artifact(folder, default_registry())
    task = Weighted()
    task.head = CUSTOM
    with pytest.raises(ArtifactError, match=r"its outputs are logits, the task's"):
        OnnxRuntime(RuntimeOptions()).load(artifact, task, "cpu")
    with pytest.raises(RefusalError, match="no embeddings"):
        OnnxRuntime(RuntimeOptions()).load(artifact, None, "cpu")
    file = folder / "onnx" / "model.onnx"
    runner = OnnxRunner(file, bound(artifact).head, sessions.open_session(file, sessions.Place("cpu")))
    one = np.ones((1, 2), np.int64)
    given = {"input_ids": one, "attention_mask": one, "token_type_ids": 0 * one}
    np.testing.assert_array_equal(runner.run({"input_ids": one})["logits"], runner.run(given)["logits"])
    with pytest.raises(RunError, match="indices element out of data bounds") as caught:
        runner.run({"input_ids": one * 10**6, "attention_mask": one, "token_type_ids": one})
    assert "\n" not in str(caught.value)


def graph(*tensors: TensorProto) -> bytes:
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ("S", "L"))]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    made = helper.make_graph(
        [helper.make_node("Gather", ["w", "input_ids"], ["logits"])], "g", inputs, outputs, tensors
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def beside(location: str, *dims: int, **more: int) -> bytes:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return graph(tensor)


BROKEN: dict[str, tuple[bytes, str]] = {
    "outside its folder": (beside("../secret.bin", 32, 32), "External data path escapes model directory"),
    "an absolute path": (beside("/etc/hostname", 2, 2), "Absolute path not allowed"),
    "a link that leads out": (beside("link.bin", 32, 32), "External data path escapes model directory"),
    "missing data": (beside("nowhere.bin", 32, 32), "does not exist"),
    "absurd shape": (beside("data.bin", 2**40, 2**20), "are out of bounds"),
    "negative shape": (beside("data.bin", -4, 32), "ONNX Runtime refuses it"),
    "absurd offset": (beside("data.bin", 32, 32, offset=2**62), "are out of bounds"),
    "shape that overflows": (graph(TensorProto(name="w", data_type=1, dims=(2**32, 2**32))), "ONNX Runtime refuses it"),
    "absurd embedded": (
        graph(TensorProto(name="w", data_type=1, dims=(2**40, 9), raw_data=bytes(64))),
        "ONNX Runtime refuses it",
    ),
    "not ONNX": (b"<!DOCTYPE html><html><body>404</body></html>" * 9, "no ONNX model, or a truncated one"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:46\nsize 91240915\n", "no ONNX model"),
    "empty": (b"", "0 bytes are no ONNX model"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    inner = tmp_path / "model"
    inner.mkdir()
    (inner / "data.bin").write_bytes(bytes(4096))
    os.symlink("../secret.bin", inner / "link.bin")
    content, words = BROKEN[case]
    (inner / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=words) as caught:
        sessions.open_session(inner / "model.onnx", sessions.Place("cpu"))
    assert "\n" not in str(caught.value)


def test_truncated_and_changed(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "onnx" / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="no ONNX model, or a truncated one"):
        sessions.open_session(tmp_path / "model.onnx", sessions.Place("cpu"))
    with pytest.raises(ArtifactError, match="not there"):
        sessions.open_session(tmp_path / "other.onnx", sessions.Place("cpu"))


def test_cores_are_those_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert machine.threads(tmp_path) == 16
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/pod/box\n")
    box = tmp_path / "sys" / "fs" / "cgroup" / "pod" / "box"
    box.mkdir(parents=True)
    (box / "cpu.max").write_text("max 100000\n")
    assert machine.threads(tmp_path) == 16
    (box.parent / "cpu.max").write_text("250000 100000\n")
    assert machine.threads(tmp_path) == 3
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:memory:/box\n3:cpu,cpuacct:/box\n")
    old = tmp_path / "sys" / "fs" / "cgroup" / "cpu" / "box"
    old.mkdir(parents=True)
    (old / "cpu.cfs_quota_us").write_text("150000\n")
    (old / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.threads(tmp_path) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.threads(tmp_path) == 1


def test_doctor_names_the_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "onnx runtime problem" not in machine.facts()
    monkeypatch.setattr(machine, "installed", lambda: {"onnxruntime": "1.0", "onnxruntime-gpu": "1.0"})
    assert "both installed" in machine.facts()["onnx runtime problem"]
    monkeypatch.setattr(machine, "installed", dict)
    assert machine.facts() == {"onnx runtime": "not installed"}


def test_an_export_that_is_thrown_away_is_no_damage(folder: Path, tmp_path: Path) -> None:
    copy = load_model(folder).save(tmp_path / "copy")
    export(open_artifact(copy, default_registry()))
    shutil.rmtree(copy / "onnx")
    assert load_model(copy).predict("a b")[0]["label"] in LABELS
    with pytest.raises(ArtifactError, match=r"model\.onnx: not there.*slimpajama export"):
        load_model(copy, runtime="onnx").predict("a b")
    export(open_artifact(copy, default_registry()))
    assert load_model(copy, runtime="onnx").predict("a b")[0]["label"] in LABELS
