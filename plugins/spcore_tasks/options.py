"""Options of this package's components."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr

Value = StrictStr | StrictInt | StrictFloat
Metric = Literal[
    "accuracy", "f1", "f1_macro", "f1_micro", "matthews_correlation", "pearson", "spearman", "pearson_spearman", "mse"
]


class TextClassificationOptions(BaseModel):
    """Task `text-classification`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = Field(
        "auto",
        description="auto: several labels for a column of lists; a number for a column of fractions or of more than 50 different "
        "numbers; else one label",
    )
    labels: list[Value] | dict[Value, StrictStr] | None = Field(
        None,
        description="names of the labels in the order of their ids, or a mapping from the data's values to names; null: as the "
        "data says",
    )
    class_weights: Literal["balanced"] | list[float] | dict[Value, float] | None = Field(
        None,
        description="what a row counts in the loss, by its label (1 = once): a number a label, or a mapping from names (1 for "
        "those left out); balanced: rows / (labels * rows of the label); null: all alike",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the target's probability that is spread over all labels; a fraction",
        json_schema_extra={"known_as": ["label_smoothing_factor"]},
    )
    metric: Metric | list[Metric] | None = Field(
        None,
        description="the metric that decides which model is the best, or several, the first deciding; null: accuracy, f1_micro "
        "for several labels, pearson_spearman for numbers",
    )
