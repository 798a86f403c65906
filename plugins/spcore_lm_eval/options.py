"""Options of this package's components."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class LmEvalOptions(BaseModel):
    """Harness `lm-eval`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks_folder: str | None = Field(
        None,
        min_length=1,
        description="a folder of lm-eval's YAML files, whose tasks go before its own; what is found there is looked for nowhere else; Python that they name (!function) is run",
    )
    limit: int | None = Field(None, ge=1, description="rows of each task, the first ones; null: all")
    shots: int | None = Field(
        None,
        ge=0,
        description="solved examples in front of each row; null: as each task has it, none where it says nothing",
    )
    chat: bool = Field(
        False, description="write prompts by the model's chat template, examples as turns of the conversation"
    )
    system: str | None = Field(
        None, min_length=1, description="instruction in front of each prompt, with `chat` the system's message"
    )
    max_length: int | None = Field(
        None,
        ge=2,
        lt=2**31,
        description="tokens that the model reads at most, the last ones; null: as many as it has positions, 2048 where it has no limit",
    )
    max_new_tokens: int = Field(
        256, ge=1, lt=2**31, description="tokens of an answer at most, where the task says nothing"
    )
    bootstrap: int = Field(
        1000, ge=1, lt=2**31, description="resamples for standard errors that have no formula (of F1, BLEU, perplexity)"
    )
    seed: int = Field(
        1234, ge=0, lt=2**32, description="decides which examples are shown, and draws of tasks that draw"
    )
