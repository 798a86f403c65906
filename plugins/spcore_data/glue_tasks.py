"""GLUE's tasks (Wang et al., 2018, https://gluebenchmark.com): columns, label names and official metrics, as on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REPOSITORIES = ("nyu-mll/glue", "glue")


@dataclass(frozen=True)
class GlueTask:
    """A task.

    folder: its name in the archives. columns: column on the Hub -> column of the TSV files, texts first, the label last.
    metric: the official one, under the name that `text-classification` has for it. labels: in the order of their ids; none
    for a score. positions: column -> field number of TSV files without a header, where there are such.
    """

    folder: str
    columns: Mapping[str, str]
    metric: str
    labels: tuple[str, ...] = ()
    positions: Mapping[str, int] = field(default_factory=dict)

    @property
    def texts(self) -> tuple[str, ...]:
        """One or two columns."""
        return tuple(name for name in self.columns if name != "label")

    def advice(self) -> dict[str, Any]:
        """Fields of the schema: default task, what it should be told, which column is which."""
        roles = dict(zip(("text", "text_pair"), self.texts, strict=False))
        problem = "single_label_classification" if self.labels else "regression"
        return {
            "default_task": "text-classification",
            "task_options": {"metric": self.metric, "problem_type": problem},
            "column_map": {**roles, "label": "label"},
        }


_PAIR = {"sentence1": "sentence1", "sentence2": "sentence2"}
_ENTAILMENT = ("entailment", "not_entailment")
TASKS: Mapping[str, GlueTask] = {
    "cola": GlueTask(
        "CoLA", {"sentence": "sentence", "label": "label"}, "matthews_correlation", ("unacceptable", "acceptable"),
        positions={"sentence": 3, "label": 1},
    ),
    "sst2": GlueTask("SST-2", {"sentence": "sentence", "label": "label"}, "accuracy", ("negative", "positive")),
    "mrpc": GlueTask(
        "MRPC", {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}, "f1", ("not_equivalent", "equivalent"),
    ),
    "qqp": GlueTask(
        "QQP", {"question1": "question1", "question2": "question2", "label": "is_duplicate"}, "f1",
        ("not_duplicate", "duplicate"),
    ),
    "stsb": GlueTask(
        "STS-B", {**_PAIR, "label": "score"}, "pearson_spearman", positions={"sentence1": 5, "sentence2": 6, "label": 4},
    ),
    "mnli": GlueTask(
        "MNLI", {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}, "accuracy",
        ("entailment", "neutral", "contradiction"),
    ),
    "qnli": GlueTask("QNLI", {"question": "question", "sentence": "sentence", "label": "label"}, "accuracy", _ENTAILMENT),
    "rte": GlueTask("RTE", {**_PAIR, "label": "label"}, "accuracy", _ENTAILMENT),
    "wnli": GlueTask("WNLI", {**_PAIR, "label": "label"}, "accuracy", ("not_entailment", "entailment")),
}  # fmt: skip


def advice_for(repository: str, configuration: str | None) -> dict[str, Any]:
    """What is known of a Hub data set if it is one of GLUE's, else nothing."""
    known = repository in REPOSITORIES and configuration in TASKS
    return TASKS[str(configuration)].advice() if known else {}


def matched(name: str, split: str | None) -> str | None:
    """The split's name in the data: of MNLI's two validation and test sets, the matched one is meant."""
    split = {"dev": "validation", "val": "validation"}.get(split or "", split)
    return f"{split}_matched" if name == "mnli" and split in ("validation", "test") else split
