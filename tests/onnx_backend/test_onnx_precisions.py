from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exported import LABELS, save
from typer.testing import CliRunner

from spcore.api import load_model
from spcore.cli.app import app
from spcore.errors import RecipeError, RefusalError, SlimPajamaError
from spcore_onnx.check import tolerance

TEXTS = ["a b c", "z", "q" * 3, "x y " * 9, "h e l l o", "!", "k l m n", "b b b"]
ROWS = [{"text": text, "label": LABELS[n % 3]} for n, text in enumerate(TEXTS)]
pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "model")


@pytest.mark.parametrize("how", ["dynamic", "static"])
def test_int8(how: str, folder: Path) -> None:
    data: dict[str, Any] = {"calibrate": ROWS} if how == "static" else {}
    report = load_model(folder).export("onnx", quantise=how, evaluate=ROWS, **data)
    assert set(report.files) == {"onnx/model.onnx", "onnx/model_quantized.onnx"}
    assert report.figures["int8 bytes"] < 0.8 * report.figures["float32 bytes"]
    assert 0 < report.figures["int8 difference"] < tolerance("int8", 3, 32)
    assert {"float32 accuracy", "int8 accuracy", "float32 rows per second", "int8 rows per second"} <= set(
        report.figures
    )
    operators = {node.op_type for node in onnx.load(folder / "onnx" / "model_quantized.onnx").graph.node}
    assert ("MatMulInteger" in operators) == (how == "dynamic")
    assert ("QuantizeLinear" in operators) == (how == "static")
    exact = load_model(folder, runtime="onnx").predict(TEXTS)
    small = load_model(folder, runtime={"use": "onnx", "precision": "int8"}).predict(TEXTS)
    assert [a["score"] for a in small] == pytest.approx([a["score"] for a in exact], abs=0.1)


def test_float16(folder: Path) -> None:
    report = load_model(folder).export("onnx", dtype="float16")
    assert "onnx/model_fp16.onnx" in report.files
    assert report.figures["float16 bytes"] < 0.7 * report.figures["float32 bytes"]
    graph = onnx.load(folder / "onnx" / "model_fp16.onnx").graph
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert report.figures["float16 difference"] < tolerance("float16", 3, 32)


def test_files_of_earlier_exports_stay(folder: Path) -> None:
    model = load_model(folder)
    model.export("onnx", quantise="dynamic")
    report = model.export("onnx", dtype="float16")
    assert list(report.details["files"]) == ["float32", "int8", "float16"]
    assert sorted(p.name for p in (folder / "onnx").iterdir()) == [
        "model.onnx",
        "model_fp16.onnx",
        "model_quantized.onnx",
    ]
    copy = model.save(folder.parent / "copy")
    assert load_model(copy, runtime={"use": "onnx", "precision": "int8"}).predict("a")[0]["label"] in LABELS


def test_what_loses_too_much_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are made to differ: on eight rows they need not."""
    data = folder.parent / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    from spcore.interfaces.runtime import Score

    found = iter([Score("accuracy", 0.9, "more", 10.0), Score("accuracy", 0.85, "more", 20.0)])
    monkeypatch.setattr("spcore.inference.RowSamples.score", lambda self, runner: next(found))
    arguments = [
        "export",
        str(folder),
        "--runtime",
        "onnx",
        "--quantise",
        "dynamic",
        "--eval-data",
        str(data),
        "--max-drop",
        "0.01",
    ]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["files"] == ["onnx/model.onnx"]
    assert told["refusal"].startswith(
        "model_quantized.onnx is not written: accuracy is 0.8500, with float32 0.9000, a loss of 0.0500"
    )
    assert [p.name for p in (folder / "onnx").iterdir()] == ["model.onnx"]
    assert list(load_model(folder).artifact().manifest["onnx"]["files"]) == ["float32"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "both": ({"quantise": "dynamic", "dtype": "float16"}, "one at a time"),
    "no calibration": ({"quantise": "static"}, "--calibrate DATA"),
    "needless calibration": ({"quantise": "dynamic", "calibrate": ROWS}, "goes with quantise=static"),
    "max_drop alone": ({"max_drop": 0.1}, "give --eval-data DATA"),
    "a choice": ({"quantise": "dynamite"}, "quantise: found 'dynamite', expected.*dynamic"),
    "an option": ({"quantized": "dynamic"}, "unknown option 'quantized'; did you mean 'quantise'"),
    "a type": ({"max_drop": "much"}, "max_drop: found 'much'"),
    "bfloat16": ({"dtype": "bfloat16"}, "checked where it runs"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_go_together_is_refused_before_anything_starts(case: str, folder: Path) -> None:
    options, words = WRONG[case]
    with pytest.raises((RefusalError, RecipeError), match=words) as caught:
        load_model(folder).export("onnx", **options)
    assert "\n" not in str(caught.value)
    assert not (folder / "onnx").exists()


def test_torch_has_nothing_to_export(folder: Path) -> None:
    with pytest.raises(SlimPajamaError, match="nothing is exported, so quantise cannot be honoured"):
        load_model(folder).export("torch", quantise="dynamic")


@pytest.mark.slow  # docs/onnx.md's bench, whose table is read, is in every run
def test_bench_shows_all_side_by_side(folder: Path) -> None:
    data = folder.parent / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    load_model(folder).export("onnx", quantise="dynamic")
    done = CliRunner().invoke(app, ["bench", str(folder), "--data", str(data), "--repeats", "1", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [row["runtime"] for row in told] == [
        "onnx precision=float32", "onnx precision=int8", "torch dtype=float32", "torch dtype=bfloat16",
    ]  # fmt: skip
    for row in told:
        assert row["p50_ms"] <= row["p99_ms"]
        assert row["rows_per_second"] > 0
        assert row["memory_mb"] > 10
        assert np.isfinite(row["accuracy"])
    assert told[0]["accuracy"] == told[2]["accuracy"]
