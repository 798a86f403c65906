"""A pretrained encoder that learns to answer questions, here and by a plain loop over transformers' model as its example recipe has it, at the same
hyperparameters: both evaluated here on the same questions, over several seeds.

    python tests/bench/answering.py FOLDER MODEL [--steps 500] [--seeds 3] [--rows 4184] [--held-out 1299] [--device cpu]

FOLDER: has squad/train_v1_subset.json.gz and squad/dev_v1_half_a.json.gz. Of MiniLM 500 steps of 16 windows of 192 tokens take some 25 minutes a seed on
two CPU cores, each way.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer

import slimpajama
from spcore_data.files import Files
from spcore_data.options import FilesOptions

LENGTH, STRIDE, BATCH, RATE, DECAY, CLIP = 192, 64, 16, 1e-4, 0.01, 1.0


def ours(model: str, train: Path, rows: int, steps: int, seed: int, output: Path, device: str) -> None:
    """By a recipe."""
    slimpajama.run(
        {
            "model": model, "task": "question-answering", "loggers": [], "device": device, "output": str(output),
            "data": {"source": str(train), "max_length": LENGTH, "stride": STRIDE, "limit": rows},
            "optimizer": {"use": "adamw", "lr": RATE, "weight_decay": DECAY}, "schedule": "linear",
            "train": {"steps": steps, "global_batch_size": BATCH, "clip_norm": CLIP, "seed": seed},
        }
    )  # fmt: skip


def windows(tokenizer: Any, row: dict[str, Any]) -> list[tuple[list[int], list[int], list[int], int, int]]:
    """Ids, mask, types, first and last token of the answer (0 where a window does not hold it), all padded to LENGTH."""
    made = tokenizer(
        row["question"].lstrip(), row["context"], truncation="only_second", max_length=LENGTH, stride=STRIDE,
        return_overflowing_tokens=True, return_offsets_mapping=True, padding="max_length",
    )  # fmt: skip
    first = row["answers"]["answer_start"][0]
    end = first + len(row["answers"]["text"][0])
    found = []
    for n, offsets in enumerate(made["offset_mapping"]):
        own = [i for i, part in enumerate(made.sequence_ids(n)) if part == 1]
        span = (0, 0)
        if offsets[own[0]][0] <= first and offsets[own[-1]][1] >= end:
            span = max(i for i in own if offsets[i][0] <= first), min(i for i in own if offsets[i][1] >= end)
        found.append((*(made[name][n] for name in ("input_ids", "attention_mask", "token_type_ids")), *span))
    return found


def theirs(model: str, train: Path, rows: int, steps: int, seed: int, output: Path, device: str) -> None:
    """By hand."""
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    net = transformers.AutoModelForQuestionAnswering.from_pretrained(model, dtype=torch.float32).to(device).train()
    source = Files(FilesOptions.model_validate({"source": str(train)})).open(None)
    features = [f for row in source.read(range(min(rows, source.length or 0))) for f in windows(tokenizer, row)]
    decayed = [p for p in net.parameters() if p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": [p for p in net.parameters() if p.ndim < 2]}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.0)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, steps)
    order: list[int] = []
    for _ in range(steps):
        if len(order) < BATCH:
            order = random.sample(range(len(features)), len(features))
        batch, order = [features[i] for i in order[:BATCH]], order[BATCH:]
        ids, mask, types, first, last = (torch.tensor(column, device=device) for column in zip(*batch, strict=True))
        loss = net(ids, attention_mask=mask, token_type_ids=types, start_positions=first, end_positions=last).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    net.save_pretrained(output)
    tokenizer.save_pretrained(output)


def main(
    folder: Path,
    model: str,
    steps: Annotated[int, typer.Option()] = 500,
    seeds: Annotated[int, typer.Option()] = 3,
    rows: Annotated[int, typer.Option(help="Questions to learn from.")] = 4184,
    held_out: Annotated[int, typer.Option(help="Questions to evaluate on.")] = 1299,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Print f1 and exact match of both, seed by seed."""
    train, dev = (folder / "squad" / f"{name}.json.gz" for name in ("train_v1_subset", "dev_v1_half_a"))
    for seed in range(seeds):
        for name, way in (("slimpajama", ours), ("transformers", theirs)):
            with tempfile.TemporaryDirectory() as work:
                way(model, train, rows, steps, seed, Path(work) / "run", device)
                trained = slimpajama.load_model(Path(work) / "run", device=device)
                found = trained.evaluate(
                    dev, max_length=LENGTH, stride=STRIDE, settings={"data.limit": held_out}
                ).metrics
            print(f"seed {seed}  {name:<12}  f1 {found['f1']:.2f}  exact_match {found['exact_match']:.2f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
