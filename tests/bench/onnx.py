"""The ONNX runtime against `transformers.pipeline`, side by side: alternated pairs, the median of their ratios.

Give a fine-tuned saved model (it is exported beside, in a temporary copy) and labelled data: `python tests/bench/onnx.py MODEL DATA`.
Both sides have the same texts and as many threads as there are cores. `--optimum PYTHON` adds optimum's ORT models, its own export and
its own int8, run by another interpreter that has optimum-onnx, whose transformers is older than ours.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, in which this file would be found for the library of its name

import contextlib
import json
import logging
import operator
import os
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from spcore.api import LanguageModelHandle, load_model
from spcore.components import default_registry
from spcore.given import data_tree
from spcore_onnx import machine

_THEIRS_FIRST = (
    "import sys, transformers; print(transformers.pipeline('text-classification', model=sys.argv[1])(sys.argv[2]))"
)
_OURS_FIRST = "import sys, slimpajama; print(slimpajama.load_model(sys.argv[1], runtime={'use': 'onnx', 'precision': sys.argv[3]}).predict(sys.argv[2]))"

_OPTIMUM = """
import sys, time, json, logging, warnings
warnings.simplefilter("ignore"); logging.disable(logging.WARNING)
from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from transformers import AutoTokenizer, pipeline
folder, work, precision = sys.argv[1:]
model = ORTModelForSequenceClassification.from_pretrained(folder, export=True)
if precision == "int8":
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    model.save_pretrained(work)
    ORTQuantizer.from_pretrained(work).quantize(save_dir=work, quantization_config=config)
    model = ORTModelForSequenceClassification.from_pretrained(work, file_name="model_quantized.onnx")
ask = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
texts = json.loads(sys.stdin.readline())
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter(); ask(texts, batch_size=32); print(time.perf_counter() - began, flush=True)
"""


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def started(code: str, *arguments: str) -> Callable[[], Any]:
    """A new process until its first answer can be read; how it ends is not counted. Modules are compiled before, as an installer leaves them."""
    command = [sys.executable, "-W", "ignore", "-u", "-c", code, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def answered() -> float:
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline(), "an answer"
            took = time.perf_counter() - began
        assert process.returncode == 0
        return took

    return answered


def compared(
    theirs: Callable[[], Any],
    ours: Callable[[], Any],
    pairs: int,
    clock: Callable[[Callable[[], Any]], float] = seconds,
) -> list[float]:
    """Ratios of alternated runs; the first pair warms up."""
    ratios = [clock(theirs) / clock(ours) for _ in range(pairs + 1)]
    return ratios[1:]


@contextlib.contextmanager
def optimum(python: Path, folder: str, precision: str, texts: list[str]) -> Iterator[Callable[[], float]]:
    """What optimum takes for all texts, in seconds, each time it is called."""
    with tempfile.TemporaryDirectory() as work:
        command = [str(python), "-c", _OPTIMUM, folder, work, precision]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def told(line: str) -> str:
                print(line, file=process.stdin, flush=True)
                return str(process.stdout.readline()) if process.stdout is not None else ""

            first = told(json.dumps(texts))
            assert first.strip() == "ready", f"{python}: optimum did not start"
            yield lambda: float(told("again"))
            process.stdin.close()


def calls(model: LanguageModelHandle, texts: list[str]) -> Callable[[], Any]:
    """One call a text."""
    return lambda: [model.predict(text) for text in texts]


def main(
    model: Annotated[Path, typer.Argument(help="A fine-tuned saved model's folder.")],
    data: Annotated[str, typer.Argument(help="Labelled text, as under a recipe's `data.source`.")],
    other: Annotated[Path | None, typer.Option("--optimum", help="An interpreter that has optimum-onnx.")] = None,
    pairs: Annotated[int, typer.Option(help="Alternated pairs of each row.")] = 5,
    single: Annotated[int, typer.Option(help="Texts that are asked one at a time.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Compare, row by row of the table in docs/onnx.md."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch
    import transformers

    torch.set_num_threads(machine.cores())
    with tempfile.TemporaryDirectory() as folder:
        copy = str(load_model(model).save(Path(folder) / "model"))
        report = load_model(copy).export("onnx", quantise="dynamic", evaluate=data)
        theirs = transformers.pipeline("text-classification", model=copy)
        fp32 = load_model(copy, runtime="onnx")
        int8 = load_model(copy, runtime={"use": "onnx", "precision": "int8"})
        bf16 = load_model(copy, runtime={"use": "torch", "dtype": "bfloat16"})
        rows = fp32.opened(data_tree(data, None, default_registry(), None))
        texts = [row["text"] for row in rows.read(range(rows.length or 0))]
        some = texts[:: max(1, len(texts) // single)][:single]

        def whole() -> Any:
            return theirs(texts, batch_size=32)

        found = {
            "float32, one at a time": compared(lambda: [theirs(text) for text in some], calls(fp32, some), pairs),
            "int8, one at a time": compared(lambda: [theirs(text) for text in some], calls(int8, some), pairs),
            "float32, all": compared(whole, lambda: fp32.predict(texts), pairs),
            "int8, all": compared(whole, lambda: int8.predict(texts), pairs),
            "torch bfloat16, all": compared(whole, lambda: bf16.predict(texts), pairs),
            "float32, first answer": compared(
                started(_THEIRS_FIRST, copy, texts[0]),
                started(_OURS_FIRST, copy, texts[0], "float32"),
                pairs,
                operator.call,
            ),
            "int8, first answer": compared(
                started(_THEIRS_FIRST, copy, texts[0]),
                started(_OURS_FIRST, copy, texts[0], "int8"),
                pairs,
                operator.call,
            ),
        }
        for precision, ours in (("float32", fp32), ("int8", int8)) if other is not None else ():
            assert other is not None
            with optimum(other, copy, precision, texts) as asked:
                pair = [asked() / seconds(lambda ours=ours: ours.predict(texts)) for _ in range(pairs + 1)]
            found[f"{precision}, all, optimum"] = pair[1:]
    ratios = {name: {"median": statistics.median(r), "low": min(r), "high": max(r)} for name, r in found.items()}
    if as_json:
        print(
            json.dumps({"ratios": ratios, "figures": dict(report.figures), "threads": machine.cores(), "pairs": pairs})
        )
        return
    for name, r in ratios.items():
        print(
            f"{name:<24} {r['median']:6.2f} times as fast as {'its pipeline' if 'optimum' in name else 'transformers.pipeline'} ({r['low']:.2f} to {r['high']:.2f}, {pairs} pairs)"
        )
    for name, value in report.figures.items():
        print(f"{name:<24} {value:.6g}")


if __name__ == "__main__":
    typer.run(main)
