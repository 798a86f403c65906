"""Every task under strategy `megatron`: the table of docs/megatron.md, cell by cell. What trains computes what one process does, the rest is
refused by name before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spcore.errors import RefusalError
from spcore.recipe import load_recipe
from spcore.session import assemble
from tests.megatron.mega_recipes import recipe, registry
from tests.megatron.test_mega_parity import compared

GUIDE = Path(__file__).parents[2] / "docs" / "megatron.md"
LAYOUTS = {
    axis: f"strategy.{name}_parallel=2"
    for axis, name in (("tp", "tensor"), ("pp", "pipeline"), ("dp", "data"), ("ep", "expert"))
}


def table() -> dict[tuple[str, str], str]:
    """(task, family) -> what the guide says of it."""
    lines = GUIDE.read_text().partition("## Tasks\n")[2].partition("\n## ")[0].splitlines()
    first, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|"))
    return {
        (row[0].strip("`"), family): said
        for row in rows
        for families, said in zip(first[1:], row[1:], strict=True)
        for family in families.replace("`", "").split(", ")
    }


SAID = table()


def axes(task: str, family: str) -> list[str]:
    """Layouts of two processes that train it."""
    experts = family in ("mixtral", "qwen2_moe", "qwen3_moe")
    known = {"trains": ["ep" if experts else "tp", "pp", "cp", "dp"], "tp, dp": ["tp", "dp"]}
    return known.get(SAID[task, family], [])


def refusal(task: str, family: str, strategy: str, *overrides: str) -> str | None:
    """What `check` says, None where it has nothing against it."""
    parts, processes = registry(), 1 if strategy == "single" else 2
    settings = [f"strategy={strategy}", "launch=warm", f"launch.processes={processes}", "model.dropout=0", *overrides]
    try:
        assemble(load_recipe(recipe(f"{task} on {family}"), settings, registry=parts), parts)
    except RefusalError as error:
        return str(error)
    return None


def test_the_table_names_every_task_and_nothing_else() -> None:
    fakes = ("fake", "opt")
    tasks = {c.name for _, c in registry().components("task") if not c.name.startswith(fakes)}
    assert {task for task, _ in SAID} == tasks
    assert {"trains", "tp, dp", "-"} <= set(SAID.values()) <= {"trains", "tp, dp", "refused", "-"}


@pytest.mark.parametrize("family", sorted({family for _, family in SAID}))
def test_the_table_says_what_check_says(family: str) -> None:
    for task in sorted({task for task, _ in SAID}):
        alone = refusal(task, family, "single")
        assert (alone is not None) == (SAID[task, family] == "-"), (task, alone)
        trained = axes(task, family)
        for axis in (trained[:1] or ["dp"]) + ["pp"] if alone is None else ():
            found = refusal(task, family, "megatron", LAYOUTS[axis])
            assert (found is None) == (axis in trained), (task, axis, found)
            if found is not None:
                assert f"'{family}'" in found


QUICK = {
    ("token-classification", "roberta", "pp"), ("multiple-choice", "llama", "tp"), ("sentence-embedding", "gpt2", "pp"),
    ("question-answering", "bert", "cp"), ("seq2seq", "t5", "tp"),
}  # fmt: skip
"""One of each task that no other test compares."""


def cases() -> list[Any]:
    """Those, and every pair at one axis, another for the next."""
    trained = [pair for pair in SAID if axes(*pair)]
    turns = {(*pair, axes(*pair)[n % len(axes(*pair))]) for n, pair in enumerate(trained)}
    return [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in sorted(QUICK | turns)]


NOTHING = {"bert": "classifier.bias", "roberta": "classifier.out_proj.bias"}


@pytest.mark.parametrize(("task", "family", "axis"), cases())
def test_a_task_learns_what_it_learns_in_one_process(task: str, family: str, axis: str, two: int) -> None:
    # All choices of a question are shifted alike.
    shifts = task == "multiple-choice" and family in NOTHING
    compared(f"{task} on {family}", f"{axis}=2", nothing=NOTHING[family] if shifts else "")
