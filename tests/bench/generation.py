"""Generating by runtime `torch` against `transformers.generate`, side by side: alternated pairs, the median of their ratios.

Give a decoder that is not quantised (a Hub name, a folder, a GGUF file): `python tests/bench/generation.py MODEL`. Both sides have the same
weights, prompt, threads and number of new tokens, all greedy. "eight together": requests of unequal lengths, which join and leave, against
the same one after another, by ours and by `transformers.generate`. The memory's bandwidth bounds a step, which reads every weight once; what
torch reads is measured beside.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, in which this file would be found for the library of its name

import contextlib
import functools
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from spcore.api import load_model

GENERATE = "transformers.generate"
PROMPT = "Once upon a time there was a little girl who lived in a small house near the big dark forest and"

SHORTEST, LONGEST = 1 / 2, 3 / 2
"""Of eight answers, as shares of their mean. The fewer are left, the less there is to be had of them together: on average 5.3 are there."""


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def compared(theirs: Callable[[], Any], ours: Callable[[], Any], pairs: int) -> list[tuple[float, float]]:
    """Seconds of alternated runs; the first pair warms up."""
    return [(seconds(theirs), seconds(ours)) for _ in range(pairs + 1)][1:]


def bandwidth() -> float:
    """Bytes a second that torch reads from memory: the quickest sum of a tensor that no cache holds."""
    import torch

    wide = torch.ones(100_000_000)
    return wide.numel() * 4 / min(seconds(wide.sum) for _ in range(8))


def written(runner: Any, asked: list[Any]) -> int:
    """Have requests answered that are all there at once; the tokens."""
    for request in asked:
        runner.submit(request)
    return sum(event.token >= 0 for event in runner.events())


def joining(
    model: Any, folder: str, dtype: str, new: int, theirs: Callable[[list[int], int], Any], pairs: int
) -> dict[str, list[tuple[float, float]]]:
    """Eight requests of unequal lengths, together, beside one after another. new: tokens of an answer on average. theirs: has one of so many
    tokens made for a prompt."""
    from spcore.artifact import Artifact
    from spcore.interfaces.runtime import GenerationRequest
    from spcore_torch.options import RuntimeOptions
    from spcore_torch.runtime import TorchRuntime

    runtime = TorchRuntime(RuntimeOptions.model_validate({"dtype": dtype}))
    words, runner = PROMPT.split(), runtime.load(Artifact(Path(folder), model, {}), None, "cpu")
    texts = [" ".join(words[: 3 + 2 * n]) for n in range(8)]
    ids = [model.processor.encode(text).arrays["input_ids"].tolist() for text in texts]
    lengths = [round(new * (SHORTEST + n / 7 * (LONGEST - SHORTEST))) for n in range(8)]
    asked = [GenerationRequest(tuple(prompt), length) for prompt, length in zip(ids, lengths, strict=True)]

    def together() -> None:
        assert written(runner, asked) == sum(lengths), "an answer ended before its length"

    return {
        "the same one after another": compared(lambda: [written(runner, [one]) for one in asked], together, pairs),
        GENERATE: compared(lambda: [theirs(*one) for one in zip(ids, lengths, strict=True)], together, pairs),
    }


def rows(model: Any, folder: str, dtype: str, new: int, pairs: int) -> dict[str, list[tuple[float, float]]]:
    """What is compared with what -> the pairs, in one format. new: tokens of an answer."""
    import torch
    import transformers

    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def theirs(prompt: list[int], length: int) -> Any:
        ids = torch.tensor([prompt])
        given = {"max_new_tokens": length, "min_new_tokens": length, "do_sample": False}
        return whole.generate(ids, attention_mask=torch.ones_like(ids), **given)

    ids = model.processor.encode(PROMPT).arrays["input_ids"].tolist()
    with contextlib.closing(load_model(folder, runtime={"use": "torch", "dtype": dtype})) as ours:
        call = functools.partial(ours.generate, PROMPT, max_new_tokens=new, min_new_tokens=new, temperature=0)
        one = compared(lambda: theirs(ids, new), call, pairs)
    eight = joining(model, folder, dtype, new, theirs, max(1, pairs // 2))
    return {f"{dtype}, one, beside {GENERATE}": one} | {
        f"{dtype}, eight together, beside {n}": found for n, found in eight.items()
    }


def main(
    model: Annotated[str, typer.Argument(help="A decoder, as under a recipe's `model.source`.")],
    new: Annotated[int, typer.Option(help="New tokens of one answer.")] = 128,
    pairs: Annotated[int, typer.Option(help="Alternated pairs of each row.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads of both sides; 0: one a core.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Compare, format by format."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch
    import transformers
    from safetensors.torch import save_file

    from spcore.artifact import open_model
    from spcore.components import default_registry
    from spcore.tensors.materialise import frozen
    from spcore_torch.generating import LANGUAGE

    torch.set_num_threads(threads or os.cpu_count() or 1)
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        opened = open_model(model, default_registry())
        opened.save_config(Path(folder), LANGUAGE)
        opened.processor.save(Path(folder))
        tensors = {name: tensor.contiguous() for name, tensor in frozen(opened, LANGUAGE).named_parameters()}
        save_file(tensors, Path(folder) / "model.safetensors", {"format": "pt"})
        size = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_pretrained(folder).parameters())
        for dtype in ("float32", "bfloat16"):
            these = rows(opened, folder, dtype, new, pairs)
            found |= these
            if not as_json:  # as soon as it is known: all of it takes a quarter of an hour
                print(*(_line(name, ratio) for name, ratio in _ratios(these).items()), sep="\n", flush=True)
    rate, read = new / statistics.median(o for _, o in found[f"float32, one, beside {GENERATE}"]), bandwidth()
    report = {
        "ratios": _ratios(found),
        "seconds": {n: [statistics.median(side) for side in zip(*r, strict=True)] for n, r in found.items()},
        "tokens_per_second": rate, "bytes_per_second": read, "share_of_bandwidth": rate * size * 4 / read, "threads": torch.get_num_threads(),
    }  # fmt: skip
    _told(report, as_json)


def _ratios(found: dict[str, list[tuple[float, float]]]) -> dict[str, dict[str, float]]:
    each = {name: [theirs / ours for theirs, ours in pairs] for name, pairs in found.items()}
    return {name: {"median": statistics.median(r), "low": min(r), "high": max(r)} for name, r in each.items()}


def _line(name: str, ratio: dict[str, float]) -> str:
    return f"{ratio['median']:5.2f} times as fast ({ratio['low']:.2f} to {ratio['high']:.2f}): {name}"


def _told(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report))
        return
    print(
        f"float32, one: {report['tokens_per_second']:.1f} tokens a second, {report['share_of_bandwidth']:.0%} of what reading the weights at "
        f"{report['bytes_per_second'] / 1e9:.1f} GB/s would allow; {report['threads']} threads"
    )


if __name__ == "__main__":
    typer.run(main)
