"""Runs drawn at random: a task, a family of tiny models made from nothing, its sizes, and how it is laid over one to four processes. Sizes
that do not divide are drawn as often as those that do."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes" / "parity"
TEXTS = {"data": {"source": "builtin/reviews", "split": "train[:9]"}, "eval": {"data": {"split": "test[:3]"}}}
ENCODERS = ("bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2", "xlm-roberta")
DECODERS = (
    "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3", "gpt_neox", "opt", "mixtral", "qwen3_moe",
)  # fmt: skip
PAIRS = ("t5", "bart", "marian")
GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3", "mixtral", "qwen3_moe")
"""Families whose heads of keys and values may be fewer."""
MAPPED = ("bert", "gpt2", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "roberta", "t5", "xlm-roberta")
"""Families that Megatron has a map for."""
PACKED = ("masked-lm", "causal-lm", "text-classification", "token-classification", "weather")
FAMILIES: dict[str, tuple[str, ...]] = {
    "masked-lm": ENCODERS, "causal-lm": DECODERS, "denoising": PAIRS, "seq2seq": (*PAIRS, "llama", "gpt2"),
    "text-classification": ENCODERS + DECODERS, "token-classification": ENCODERS, "question-answering": ENCODERS,
    "multiple-choice": ("bert", "roberta", "llama", "gpt2"), "sentence-embedding": ("bert", "modernbert", "llama"),
    "weather": ("bert", "distilbert", "gpt2", "llama", "t5"),
}  # fmt: skip
"""task -> families that it is drawn with."""


def task_of(task: str) -> dict[str, Any]:
    """The parts of a recipe that belong to a task."""
    file = RECIPES / f"{task}.yaml"
    if file.exists():
        found: dict[str, Any] = yaml.safe_load(file.read_text())
        return {name: found[name] for name in ("task", "data", "eval")}
    if task == "weather":
        return {"task": task, "data": {"use": "weather"}, "eval": {"data": {"use": "weather", "split": "train[50:]"}}}
    return {"task": task, **TEXTS}


def model_of(family: str, draw: random.Random) -> dict[str, Any]:
    """Sizes of a model made from nothing."""
    heads = draw.choice((1, 2, 3, 4, 4, 4, 6))
    size: dict[str, Any] = {
        "hidden_size": heads * draw.choice((4, 8, 8)), "layers": draw.choice((1, 2, 2, 3, 4, 4)), "heads": heads,
        "intermediate_size": draw.choice((24, 32, 32, 31)), "dropout": draw.choice((0.0, 0.1)),
    }  # fmt: skip
    if family != "t5":
        size["positions"] = draw.choice((33, 48, 64))
    if family in GROUPED and draw.random() < 0.6:
        size["key_value_heads"] = draw.choice([n for n in range(1, heads + 1) if heads % n == 0])
    if draw.random() < 0.3:
        size["tie_embeddings"] = draw.random() < 0.5
    if family in ("mixtral", "qwen3_moe"):
        experts = {
            "num_experts_per_tok": 2,
            "num_local_experts" if family == "mixtral" else "num_experts": draw.choice((2, 3, 4)),
        }
        size["config"] = {**experts, **({} if family == "mixtral" else {"moe_intermediate_size": 16})}
    return {"use": "transformers", "architecture": family, "tokenizer": "bytes", **size}


def strategy_of(draw: random.Random) -> tuple[dict[str, Any], int]:
    """Options of a strategy, and processes."""
    use = draw.choice(
        ("ddp", "fsdp", "parallel", "parallel", "parallel", "parallel", "megatron", "megatron", "megatron")
    )
    options: dict[str, Any] = {"use": use}
    if use in ("ddp", "fsdp"):
        processes = draw.choice((1, 2, 2, 4))
        if use == "fsdp":
            options |= _some(draw, 0.3, shard_size=(2, 4), reshard_after_forward=(False,))
    else:
        sizes = {f"{axis}_parallel": draw.choice((1, 1, 1, 2, 2, 3, 4)) for axis in ("tensor", "pipeline", "context")}
        while sizes["tensor_parallel"] * sizes["pipeline_parallel"] * sizes["context_parallel"] > 4:
            sizes[draw.choice(list(sizes))] = 1
        product = sizes["tensor_parallel"] * sizes["pipeline_parallel"] * sizes["context_parallel"]
        processes = product * draw.choice([n for n in (1, 2) if n * product <= 4])
        options |= sizes
        if options["tensor_parallel"] > 1:
            options |= _some(draw, 0.4, sequence_parallel=(True,))
    if use == "parallel" and options["pipeline_parallel"] > 1:
        options |= _some(draw, 0.5, schedule=("gpipe", "1f1b", "interleaved"))
        if options.get("schedule") == "interleaved":
            options["chunks"] = draw.choice((1, 2, 2, 3))
    if use == "megatron":
        options |= _some(
            draw, 0.3, distributed_optimizer=(True,), overlap_grad_reduce=(True,), recompute=("selective", "full"), expert_parallel=(1, 2)
        )  # fmt: skip
        if options.get("overlap_grad_reduce"):
            options |= _some(draw, 0.4, overlap_param_gather=(True,), bucket_size=(2000,))
        if options["pipeline_parallel"] > 1:
            options |= _some(draw, 0.3, virtual_pipeline=(2,))
        if options.get("recompute") == "full":
            options |= _some(draw, 0.5, recompute_layers=(1, 2))
    else:
        options |= _some(draw, 0.2, flatten=("always", "never"), activation_checkpointing=("full", "selective"))
    return options, processes


def _some(draw: random.Random, chance: float, **options: tuple[Any, ...]) -> dict[str, Any]:
    return {name: draw.choice(values) for name, values in options.items() if draw.random() < chance}


def run(seed: int, output: Path) -> tuple[dict[str, Any], int]:
    """A recipe, and how many processes. output: of the run, whose model is saved, and of some the state."""
    draw = random.Random(seed)
    strategy, processes = strategy_of(draw)
    task = draw.choice(list(FAMILIES))
    known = [name for name in FAMILIES[task] if name in MAPPED or strategy["use"] != "megatron" or draw.random() < 0.1]
    family = draw.choice(known or FAMILIES[task])
    parts = parts_of(task, family, draw)
    rows = draw.choice((1, 3, 4, 5, 8, 8))
    train: dict[str, Any] = {"steps": 1, "global_batch_size": rows, "seed": seed}
    train |= _some(draw, 0.5, micro_batch_size=tuple(n for n in (1, 2, 3) if n <= rows))
    train |= _some(draw, 0.2, micro_batch_tokens=(16, 64), workers=(2,), clip_norm=(0.5, None))
    made = {
        **parts, "model": model_of(family, draw), "strategy": strategy, "train": train,
        "optimizer": {"use": draw.choice(("adamw",) * 9 + ("sgd", "sgd", "lion", "adafactor", "muon")), "lr": 1e-3},
        "precision": draw.choice(("fp32", "fp32", "fp32", "bf16", "fp16")), "device": "cpu", "loggers": [], "output": str(output),
    }  # fmt: skip
    train |= _some(draw, 0.3, save_every=(1,))
    return made, processes


def parts_of(task: str, family: str, draw: random.Random) -> dict[str, Any]:
    """Task and data."""
    tree = task_of(task)
    data = dict(tree["data"])
    stride = data.pop("stride", 0)
    data["max_length"] = draw.choice((None, 24, 32, 32, 33))
    if stride and draw.random() < 0.5:
        data["stride"] = stride
    if task in PACKED or draw.random() < 0.05:
        data |= _some(draw, 0.25, pack=(33, 40, 48))
    if task != "seq2seq":
        return {**tree, "data": data}
    asked = {} if family in PAIRS else {"prompt": "{source} = "}
    return {
        "task": {**tree["task"], **asked},
        "data": data,
        "eval": {**tree["eval"], "generate": draw.choice((None, 0))},
    }
