"""Recipes that are wrong in one way each: what is changed in a recipe that is right, and the line it must give."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

BASE: dict[str, Any] = {
    "model": "bert-base-uncased",
    "task": {"use": "text-classification", "label_smoothing": 0.1},
    "data": {"use": "files", "source": "./rows.csv", "max_length": 128, "columns": {"text": "review"}},
    "optimizer": {"use": "adamw", "lr": 0.0001, "betas": [0.9, 0.99]},
    "schedule": {"use": "linear", "warmup": 0.1},
    "train": {"epochs": 2, "global_batch_size": 32, "seed": 7},
    "eval": {"data": {"use": "glue", "name": "sst2"}, "every": 10},
    "loggers": ["jsonl", {"use": "progress", "every": 5}],
    "output": "run",
}
MISSING = object()
PART = "expected: the {}'s name or a mapping with `use`"


@dataclass(frozen=True)
class Wrong:
    """path: what is changed. value: to what; MISSING: taken out. says: the line begins so, after the place. place: the
    setting whose line is named; default: `path`. override: the setting that an override changes, where one can."""

    path: str
    value: Any
    says: str
    place: str | None = None
    override: bool = True

    def tree(self) -> dict[str, Any]:
        """The recipe with the fault."""
        tree: Any = copy.deepcopy(BASE)
        whole, *keys = tree, *self.keys()
        for key in keys[:-1]:
            tree = tree[key] if isinstance(tree, list) else tree.setdefault(key, {})
        if self.value is MISSING:
            del tree[keys[-1]]
        else:
            tree[keys[-1]] = self.value
        return whole

    def keys(self) -> tuple[str | int, ...]:
        """The path of the change."""
        return keys_of(self.path)


def keys_of(path: str) -> tuple[str | int, ...]:
    """A dotted path as keys; numbers are entries of lists."""
    return tuple(int(k) if k.isdecimal() else k for k in path.split(".") if k)


TOP = "known: adapter, data, device, eval, launch, loggers, model, optimizer, output, precision, schedule, strategy, task, train"
COUNT = "expected: a whole number at least 1 and below 2147483648"
WRONG = [
    # unknown keys at every depth
    Wrong("trian", {"seed": 1}, f"trian: unknown key 'trian'; did you mean 'train'? {TOP}"),
    Wrong("logger", ["jsonl"], "logger: unknown key 'logger'; did you mean 'loggers'?"),
    Wrong("train.epocs", 3, "train.epocs: unknown key 'epocs'; did you mean 'epochs'? known: clip_norm, "),
    Wrong("train.Seed", 3, "train.Seed: unknown key 'Seed'; did you mean 'seed'?"),
    Wrong("train.global-batch-size", 8, "train.global-batch-size: unknown key 'global-batch-size'; did you mean 'global_batch_size'?"),
    Wrong("eval.evry", 3, "eval.evry: unknown key 'evry'; did you mean 'every'? known: batch_tokens, data, every, generate, keep_best, metric"),
    Wrong("optimizer.lrr", 3, "optimizer.lrr: unknown key 'lrr'; did you mean 'lr'? known: betas, eps, lr, no_decay, use, weight_decay"),
    Wrong("data.max_len", 8, "data.max_len: unknown key 'max_len'; did you mean 'max_length'? known: columns, delimiter, "),
    Wrong("data.delimeter", ";", "data.delimeter: unknown key 'delimeter'; did you mean 'delimiter'?"),
    Wrong("eval.data.nam", "sst2", "eval.data.nam: unknown key 'nam'; did you mean 'name'? known: columns, folder, "),
    Wrong("task.lables", ["a"], "task.lables: unknown key 'lables'; did you mean 'labels'?"),
    Wrong("loggers.1.evry", 1, "loggers.1.evry: unknown key 'evry'; did you mean 'every'? known: every, use"),
    Wrong("precision", {"use": "bf16", "scale": 2}, "precision.scale: unknown key 'scale'; known: use", "precision.scale"),
    # keys that belong elsewhere, and what other programs call them
    Wrong("lr", 0.1, "lr: unknown key 'lr'; did you mean 'optimizer.lr'?"),
    Wrong("learning_rate", 0.1, "learning_rate: unknown key 'learning_rate'; did you mean 'optimizer.lr'?"),
    Wrong("train.lr", 0.1, "train.lr: unknown key 'lr'; did you mean 'optimizer.lr'?"),
    Wrong("optimizer.learning_rate", 0.1, "optimizer.learning_rate: unknown key 'learning_rate'; did you mean 'lr'?"),
    Wrong("epochs", 3, "epochs: unknown key 'epochs'; did you mean 'train.epochs'?"),
    Wrong("max_length", 64, "max_length: unknown key 'max_length'; did you mean 'data.max_length'?"),
    Wrong("train.batch_size", 8, "train.batch_size: unknown key 'batch_size'; did you mean 'global_batch_size'?"),
    Wrong("train.warmup_steps", 8, "train.warmup_steps: unknown key 'warmup_steps'; did you mean 'schedule.warmup'?"),
    Wrong("train.fp16", True, "train.fp16: unknown key 'fp16'; did you mean 'precision'?"),
    Wrong("output_dir", "run", "output_dir: unknown key 'output_dir'; did you mean 'output'?"),
    Wrong("optimizer.momentum", 0.9, "optimizer.momentum: unknown key 'momentum'; it is an option of optimizer 'muon' and 'sgd'; known: "),
    Wrong("strategy.processes", 2, "strategy.processes: unknown key 'processes'; did you mean 'launch.processes'?"),
    # wrong types
    Wrong("train.epochs", "many", "train.epochs: found 'many', expected: a number above 0 and at most 1000000000 or null"),
    Wrong("train.epochs", "3", "train.epochs: found '3', expected: a number above 0 and at most 1000000000 or null; write 3, without quotes"),
    Wrong("train.epochs", True, "train.epochs: found true, expected: a number above 0"),
    Wrong("train.global_batch_size", 8.5, f"train.global_batch_size: found 8.5, {COUNT}"),
    Wrong("train.global_batch_size", 8.0, f"train.global_batch_size: found 8.0, {COUNT}; write 8"),
    Wrong("train.global_batch_size", "8", f"train.global_batch_size: found '8', {COUNT}; write 8, without quotes"),
    Wrong("train.global_batch_size", None, f"train.global_batch_size: found null, {COUNT}"),
    Wrong("train.global_batch_size", [8], f"train.global_batch_size: found [8], {COUNT}"),
    Wrong("train.seed", True, "train.seed: found true, expected: a whole number at least 0 and below 4294967296"),
    Wrong("train.seed", "2024-01-31", "train.seed: found '2024-01-31', expected: a whole number"),
    Wrong("train.seed", "0x10", "train.seed: found '0x10', expected: a whole number at least 0 and below 4294967296"),
    Wrong("train.deterministic", "no", "train.deterministic: found 'no', expected: true or false; write false, without quotes"),
    Wrong("train.deterministic", "on", "train.deterministic: found 'on', expected: true or false; write true, without quotes"),
    Wrong("train.deterministic", 1, "train.deterministic: found 1, expected: true or false"),
    Wrong("optimizer.lr", "1e-4", "optimizer.lr: found '1e-4', expected: a number above 0; write 0.0001, without quotes"),
    Wrong("optimizer.lr", None, "optimizer.lr: found null, expected: a number above 0"),
    Wrong("optimizer.betas", 0.9, "optimizer.betas: found 0.9, expected: a list of 2: a number at least 0 and below 1, a number"),
    Wrong("optimizer.betas", [0.9, 0.99, 0.999], "optimizer.betas: found [0.9, 0.99, 0.999], expected: a list of 2: a number at least 0"),
    Wrong("optimizer.betas", [0.9], "optimizer.betas: found [0.9], expected: a list of 2: a number at least 0 and below 1, a number"),
    Wrong("optimizer.no_decay", "bias", "optimizer.no_decay: found 'bias', expected: a list, each text that is not empty; write [bias]"),
    Wrong("data.columns", "review", "data.columns: found 'review', expected: a mapping of names to text"),
    Wrong("data.columns", {"text": 3}, "data.columns.text: found 3, expected: text; put it into quotes", "data.columns.text"),
    Wrong("data.source", 3, "data.source: found 3, expected: text or a list, each text; put it into quotes"),
    Wrong("data.source", {"a": "b"}, 'data.source: found {"a": "b"}, expected: text or a list, each text'),
    Wrong("data.header", "yes", "data.header: found 'yes', expected: 'auto' or true or false; write true, without quotes"),
    Wrong("train", 5, "train: found 5, expected: a mapping with epochs, steps, global_batch_size, "),
    Wrong("train", ["seed"], 'train: found ["seed"], expected: a mapping with epochs, steps, '),
    Wrong("eval", True, "eval: found true, expected: a mapping with data, every, metric, keep_best, batch_tokens"),
    Wrong("output", 2024, "output: found 2024, expected: text or null; put it into quotes"),
    Wrong("output", ["run"], 'output: found ["run"], expected: text or null'),
    Wrong("device", 0, "device: found 0, expected: auto, cpu, cuda, cuda:N"),
    # out of range
    Wrong("train.epochs", 0, "train.epochs: found 0, expected: a number above 0"),
    Wrong("train.epochs", -0.0, "train.epochs: found -0.0, expected: a number above 0"),
    Wrong("train.epochs", math.nan, "train.epochs: found nan, expected: a finite number"),
    Wrong("optimizer.lr", math.inf, "optimizer.lr: found inf, expected: a finite number"),
    Wrong("optimizer.lr", 10**400, "optimizer.lr: found a huge number, expected: a finite number"),
    Wrong("optimizer.lr", -0.0001, "optimizer.lr: found -0.0001, expected: a number above 0"),
    Wrong("optimizer.betas", [0.9, 1.0], "optimizer.betas.1: found 1.0, expected: a number at least 0 and below 1", "optimizer.betas.1"),
    Wrong("train.steps", 10**30, f"train.steps: found 1{'0' * 30}, {COUNT} or null"),
    Wrong("train.seed", -1, "train.seed: found -1, expected: a whole number at least 0 and below 4294967296"),
    Wrong("train.seed", 2**32, "train.seed: found 4294967296, expected: a whole number at least 0 and below 4294967296"),
    Wrong("train.nonfinite", "ignore", "train.nonfinite: found 'ignore', expected: 'stop' or 'skip'"),
    Wrong("data.limit", 0, "data.limit: found 0, expected: a whole number at least 1"),
    Wrong("data.max_length", 1, "data.max_length: found 1, expected: a whole number at least 4 and below 2147483648 or null"),
    Wrong("data.delimiter", ";;", "data.delimiter: found ';;', expected: text of 1 character or null"),
    Wrong("data.format", "cvs", "data.format: found 'cvs', expected: 'auto' or 'csv' or 'tsv' or 'jsonl' or 'json' or 'parquet' or 'arrow' or 'text' or 'conll'; did you mean 'csv'?"),
    Wrong("eval.data.name", "sst3", "eval.data.name: found 'sst3', expected: 'cola' or 'sst2' or "),
    Wrong("schedule.warmup", 1.5, "schedule.warmup: found 1.5, expected: whole steps, or a share of the run below 1"),
    Wrong("task.label_smoothing", 1, "task.label_smoothing: found 1, expected: a number at least 0 and below 1"),
    Wrong("device", "gpu", "device: found 'gpu', expected: auto, cpu, cuda, cuda:N"),
    Wrong("launch.processes", 2, "launch.processes: found 2, expected: a whole number at least 1 and at most 1"),
    # unknown parts, and what is none
    Wrong("strategy", "singel", "strategy: unknown strategy 'singel'; did you mean 'single'? known: "),
    Wrong("precision", "bf61", "precision: unknown precision 'bf61'; did you mean 'bf16'? known: bf16, fp16, fp32, fp8, tf32"),
    Wrong("precision", 16, f"precision: found 16, {PART.format('precision')}; did you mean 'fp16'? known: "),
    Wrong("precision", True, f"precision: found true, {PART.format('precision')}"),
    Wrong("optimizer.use", "adamv", "optimizer.use: unknown optimizer 'adamv'; did you mean 'adamw'?"),
    Wrong("optimizer.use", 3, "optimizer.use: found 3, expected: the optimizer's name; known: "),
    Wrong("optimizer", ["adamw"], f'optimizer: found ["adamw"], {PART.format("optimizer")}'),
    Wrong("task", "text-clasification", "task: unknown task 'text-clasification'; did you mean 'text-classification'?"),
    Wrong("task", {"labels": ["a"]}, f'task: found {{"labels": ["a"]}}, {PART.format("task")}', override=False),
    Wrong("data.use", "glu", "data.use: unknown dataset 'glu'; did you mean 'glue'?"),
    Wrong("eval.data.use", "gleu", "eval.data.use: unknown dataset 'gleu'; did you mean 'glue'?"),
    Wrong("loggers", ["jsonl", "progres"], "loggers.1: unknown logger 'progres'; did you mean 'progress'?", "loggers.1"),
    Wrong("loggers.1.use", "progres", "loggers.1.use: unknown logger 'progres'; did you mean 'progress'?"),
    Wrong("loggers", [3], f"loggers.0: found 3, {PART.format('logger')}", "loggers.0"),
    Wrong("adapter", "lora", "adapter: unknown adapter 'lora'; known: none"),
    Wrong("schedule", None, f"schedule: found null, {PART.format('schedule')}"),
    Wrong("model", None, "model: found null, expected: the model's name, a source, or a mapping with `use`"),
    Wrong("data", ["a.csv"], 'data: found ["a.csv"], expected: the dataset\'s name, a source, or a mapping with `use`'),
    # a package that is not installed
    Wrong("strategy", "giant", "strategy: strategy 'giant' needs no-such-engine>=3: pip install \"no-such-engine>=3\""),
    Wrong("strategy", {"use": "giant"}, "strategy.use: strategy 'giant' needs no-such-engine>=3: pip install", "strategy.use"),
    # missing
    Wrong("model", MISSING, "model: missing, expected: a source, or one of transformers", ""),
    Wrong("data", MISSING, "data: missing, expected: a source, or one of ", ""),
    Wrong("data.source", MISSING, "data.source: missing, expected: text or a list, each text (a path, a glob, ", "data"),
    Wrong("data", {"limit": 3}, 'data: found {"limit": 3}, expected: `use` or `source` in it', override=False),
    Wrong("eval.data.name", MISSING, "eval.data.name: missing, expected: 'cola' or 'sst2' or ", "eval.data"),
    # settings that contradict each other
    Wrong("train.steps", 5, "train.steps and train.epochs are both given: give one of them, or make the other null"),
    Wrong("train.epochs", None, "train.epochs: neither train.epochs nor train.steps is given: give one of them"),
    Wrong("train.micro_batch_size", 64, "train.micro_batch_size: found 64, expected: at most train.global_batch_size, which is 32"),
    Wrong("data.pack", 64, "data.pack: found 64, expected: at least data.max_length, which is 128"),
    Wrong("eval.data", None, "eval.every: found 10, and it needs eval.data, which is not given", "eval.every", override=False),
    Wrong("eval.data.max_length", 64, "eval.data.max_length: found 64, expected: null, it is taken from data.max_length"),
    Wrong("optimizer", {"use": "sgd", "momentum": 0, "nesterov": True}, "optimizer.nesterov: found true, expected: false where momentum is 0, or", "optimizer.nesterov"),
    Wrong("data", {"use": "rows"}, "data: give `rows` or `source`, one of the two", override=False),
]  # fmt: skip
