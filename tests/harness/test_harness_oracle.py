"""Harness `lm-eval` against lm-eval's own `hf` model on the same weights: the same figures, likelihoods and answers."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from spcore.api import LanguageModelHandle
from spcore.interfaces.harness import HarnessReport

TASKS = ["capitals", "letters", "rolling", "written"]
_TOLERANCE = 1e-4
"""Sums of float32 log-probabilities of up to 190 tokens, from batches of other shapes."""


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return HFLM(pretrained=str(folder / "model"), device="cpu", dtype="float32", batch_size=3)


def oracle(theirs: Any, folder: Path, tasks: list[str], **settings: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    with contextlib.redirect_stderr(io.StringIO()):  # its bars
        found = lm_eval.simple_evaluate(
            model=theirs, tasks=tasks, task_manager=manager, bootstrap_iters=1000, **settings
        )
    assert found is not None
    return dict(found)


def same(ours: HarnessReport, hf: dict[str, Any]) -> int:
    """Assert that figures, prompts, likelihoods and answers are the same; how many answers."""
    compared = 0
    for task, samples in hf["samples"].items():
        mine = {sample["doc_id"]: sample for sample in ours.samples[task]}
        assert len(mine) == len(samples)
        for sample in samples:
            own = mine[sample["doc_id"]]
            assert own["arguments"] == sample["arguments"]
            for (answer,), (wanted,) in zip(own["resps"], sample["resps"], strict=True):
                compared += 1
                if isinstance(wanted, str):
                    assert answer == wanted
                elif isinstance(wanted, tuple):
                    assert answer[0] == pytest.approx(wanted[0], abs=_TOLERANCE)
                    assert answer[1] is wanted[1]
                else:
                    assert answer == pytest.approx(wanted, abs=_TOLERANCE)
    for task, table in {**hf["results"], **hf.get("groups", {})}.items():
        for key, value in table.items():
            metric, comma, _ = key.partition(",")
            if not comma or value == "N/A":
                continue
            found = ours.tasks[task].stderr if metric.endswith("_stderr") else ours.tasks[task].metrics
            assert found[metric.removesuffix("_stderr")] == pytest.approx(value, rel=1e-5), (task, key)
    return compared


def test_figures_likelihoods_and_answers_are_lm_evals_own(
    model: LanguageModelHandle, theirs: Any, folder: Path
) -> None:
    ours = model.evaluate_tasks(TASKS, tasks_folder=str(folder / "tasks"))
    assert same(ours, oracle(theirs, folder, TASKS)) == 6 * 3 + 6 * 3 + 6 + 6
    assert ours.tasks["capitals"].stderr["acc"] > 0
    assert (ours.tasks["letters"].rows, ours.tasks["letters"].of, ours.tasks["letters"].shots) == (6, 6, 0)
    assert ours.tasks["letters"].version == "2"
    texts = [sample["resps"][0][0] for sample in ours.samples["written"]]
    assert any(texts)
    assert not any("a" in text or "zz" in text for text in texts)


def test_examples_before_rows_limit_and_group(model: LanguageModelHandle, theirs: Any, folder: Path) -> None:
    ours = model.evaluate_tasks(["choosing"], tasks_folder=str(folder / "tasks"), shots=1, limit=4, max_length=64)
    theirs._max_length = 64
    try:
        hf = oracle(theirs, folder, ["choosing"], num_fewshot=1, limit=4)
    finally:
        theirs._max_length = None
    assert same(ours, hf) == 4 * 3 + 4 * 3
    assert {"choosing", "capitals", "letters"} == set(ours.tasks)
    assert (ours.tasks["letters"].rows, ours.tasks["letters"].of, ours.tasks["letters"].shots) == (4, 6, 1)
    assert len(ours.remarks) == 1
    assert "too long for 64 tokens and lost their beginning" in ours.remarks[0]


def test_conversations_by_the_chat_template(model: LanguageModelHandle, theirs: Any, folder: Path) -> None:
    ours = model.evaluate_tasks(
        ["letters", "written"],
        tasks_folder=str(folder / "tasks"),
        chat=True,
        system="Be short.",
        shots=1,
        limit=3,
        max_length=90,
    )
    theirs._max_length = 90
    try:
        hf = oracle(
            theirs,
            folder,
            ["letters", "written"],
            apply_chat_template=True,
            system_instruction="Be short.",
            num_fewshot=1,
            limit=3,
        )
    finally:
        theirs._max_length = None
    assert same(ours, hf) == 3 * 3 + 3
    prompt = ours.samples["written"][0]["arguments"][0][0]
    assert prompt.startswith("<s><system>Be short.")
    assert prompt.count("<user>") == 2
