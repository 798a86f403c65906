"""Data set `glue`: GLUE's tasks (Wang et al., 2018) with their columns, label names and official metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace

from spcore.errors import SourceError
from spcore.interfaces.dataset import Column, Dataset, Schema, Source
from spcore_data.hub import load
from spcore_data.options import GlueOptions

REPOSITORIES = ("nyu-mll/glue", "glue")


@dataclass(frozen=True)
class GlueTask:
    """text, pair: columns. metric: the official one, under the task's names. regression: a score in place of classes."""

    text: str
    pair: str | None
    metric: str
    regression: bool = False


TASKS = {
    "cola": GlueTask("sentence", None, "matthews_correlation"),
    "sst2": GlueTask("sentence", None, "accuracy"),
    "mrpc": GlueTask("sentence1", "sentence2", "f1"),
    "qqp": GlueTask("question1", "question2", "f1"),
    "stsb": GlueTask("sentence1", "sentence2", "pearson_spearman", regression=True),
    "mnli": GlueTask("premise", "hypothesis", "accuracy"),
    "qnli": GlueTask("question", "sentence", "accuracy"),
    "rte": GlueTask("sentence1", "sentence2", "accuracy"),
    "wnli": GlueTask("sentence1", "sentence2", "accuracy"),
}


class Glue(Dataset):
    """One of GLUE's tasks, from the Hub or its cache."""

    def __init__(self, options: GlueOptions) -> None:
        self.options = options

    def open(self, split: str | None) -> Source:
        """See `Dataset.open`; "validation" of MNLI is the matched one."""
        name, task = self.options.name, TASKS[self.options.name]
        wanted = f"{split}_matched" if name == "mnli" and split in ("validation", "test") else split
        columns = {"text": task.text, "label": "label", **({"text_pair": task.pair} if task.pair else {})}
        problem = "regression" if task.regression else "single_label_classification"
        advice = {
            "default_task": "text-classification", "column_map": columns,
            "task_options": {"metric": task.metric, "problem_type": problem},
        }  # fmt: skip
        errors = []
        for repository in REPOSITORIES:
            try:
                source = load(repository, name, wanted, advice=advice)
            except SourceError as error:
                if "unknown split" in error.message:
                    raise
                errors.append(error)
                continue
            return _without_empty_labels(source)
        raise errors[0]


def _without_empty_labels(source: Source) -> Source:
    """Test splits hold -1 for every label: that is no value to count."""
    label = source.schema.columns.get("label")
    if label is not None and label.counts is not None and "-1" in label.counts:
        counts = {value: n for value, n in label.counts.items() if value != "-1"}
        columns = {**source.schema.columns, "label": Column(label.kind, label.labels, counts)}
        source.schema = replace(source.schema, columns=columns)
    assert isinstance(source.schema, Schema)
    return source
