"""Layouts compared with one process: what computes the same is said to, and faults planted into an engine are found, each where it shows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import parity.faulty
import parity.twice
import parity.warm
import spcore.loading
from exact.processes import Processes, measure, registry_of
from spcore.comparing import curves_apart
from spcore.laying import parse_layout
from spcore.parity import Parity
from spcore.parity import parity as compare

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes" / "parity"
FAMILIES = sorted(file.stem for file in RECIPES.glob("*.yaml"))
LAYOUTS = {
    "dp=2": ("ddp", 2), "fsdp=2": ("fsdp", 2), "tp=2": ("parallel", 2), "pp=2": ("parallel", 2), "cp=2": ("parallel", 2),
    "tp=2,pp=2": ("parallel", 4), "dp=2,fsdp=2": ("fsdp", 4), "dp=2,tp=2": ("parallel", 4), "tp=2,cp=2": ("parallel", 4),
    "pp=2,cp=2": ("parallel", 4),
}  # fmt: skip
"""Layout -> what lays it out, and over how many processes."""
QUICK = ("fsdp=2", "dp=2", "tp=2", "cp=2", "pp=2", "tp=2,pp=2")
FAULTS: dict[str, set[str]] = {
    "none": set(),
    "loss": {"loss", "losses", "gradient"},
    "microbatches": {"grad_norm", "gradient"},
    "unreduced": {"gradient"},
    "rows": {"rows", "loss", "gradient"},
    "drawn": {"initial", "gradient"},
    "drawn elsewhere": {"gradient"},
    "clipping": {"losses", "weights"},
    "evaluation": {"evaluation"},
}
"""A fault of `FaultyEngine` -> figures that show it, among others."""
FIRST = {"loss", "grad_norm", "gradient", "initial"}


def registry() -> Any:
    found = registry_of()
    found.register(parity.warm, name="warm")
    found.register(parity.faulty, name="faulty")
    found.register(parity.twice, name="twice")
    return found


def compared(family: str, layouts: list[str], *overrides: str, **how: Any) -> Parity:
    return compare(RECIPES / f"{family}.yaml", layouts, registry(), overrides=["launch=warm", *overrides], **how)


def families(layout: str) -> list[str]:
    """Those that are not refused: an encoder-decoder is not cut between layers, nor are the positions of a BART."""
    refused = {"t5": {"pp"}, "seq2seq": {"pp", "cp"}}  # by name, before anything starts
    return [family for family in FAMILIES if not refused.get(family, set()) & set(parse_layout(layout))]


def cases() -> list[Any]:
    """Every family at every layout; of QUICK ones a family, in turn, is not slow."""
    every = [(family, layout) for layout in LAYOUTS for family in families(layout)]
    quick = {(families(layout)[n % len(families(layout))], layout) for n, layout in enumerate(QUICK)}
    return [pytest.param(*case, id=" ".join(case), marks=[] if case in quick else [pytest.mark.slow]) for case in every]


@pytest.mark.parametrize(("family", "layout"), cases())
def test_layouts(family: str, layout: str, two: int, four: int) -> None:
    found = compared(family, [layout])
    assert found.same, found.to_json()
    (verdict,) = found.verdicts
    assert (verdict.strategy, verdict.processes) == LAYOUTS[layout]
    assert verdict.tokens[0] == verdict.tokens[1] > 0
    assert set(verdict.differences) == set(found.tolerances)
    assert verdict.differences["initial"].size == 0
    assert 0 < verdict.differences["gradient"].size < 2e-5, "sums over processes are taken in another order"
    own = {} if family == "question-answering" else {"optimizer.eps": 1e-5}
    assert found.settings == {"model.dropout": 0.0, **own}, "a recipe that has a larger eps keeps it"


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults(fault: str, two: int) -> None:
    # Evaluated, the same rows on every rank would end the run; every rank has some of short batches.
    more = {"rows": ["eval.data=null"], "evaluation": ["eval.batch_tokens=64"]}.get(fault, [])
    found = compared("bert", ["dp=2"], f"strategy={{use: faulty, fault: {fault}}}", *more)
    failed = set(found.verdicts[0].failed)
    assert failed >= FAULTS[fault], found.to_json()
    if fault in ("clipping", "evaluation"):
        assert not failed & FIRST, "before the first update nothing is wrong"
    assert found.same == (fault == "none")
    if fault == "unreduced":
        assert found.verdicts[0].differences["gradient"].at == "bert.embeddings.LayerNorm.weight"


@pytest.mark.parametrize(("strategy", "same"), [("parallel", True), ("twice", False)])
def test_a_bias_counted_twice_under_tensor_parallelism(strategy: str, same: bool, two: int) -> None:
    # Biases begin as zeros: the first step's loss cannot show it, their gradients do.
    (verdict,) = compared("gpt2", ["tp=2"], strategy=strategy).verdicts
    assert (verdict.strategy, not verdict.failed) == (strategy, same), verdict.to_json()
    if not same:
        assert {"gradient", "losses", "weights"} <= set(verdict.failed)
        assert verdict.differences["gradient"].at.endswith("bias")


@pytest.mark.parametrize("fault", ["none", "loss"])
def test_sixteen_bits(fault: str, two: int) -> None:
    found = compared("bert", ["dp=2"], "precision=bf16", f"strategy={{use: faulty, fault: {fault}}}")
    assert "bfloat16" in found.tolerances["loss"].reason
    assert found.tolerances["loss"].value == pytest.approx(5e-4, rel=0.05)
    assert set(found.verdicts[0].failed) >= ({"loss", "losses"} if fault == "loss" else set())
    assert found.same == (fault == "none"), found.to_json()


NARROW = [(precision, family, layout) for precision in ("fp16", "bf16") for family, layout in (
    ("gpt2", "fsdp=2"), ("llama", "tp=2"), ("bert", "pp=2"), ("llama", "tp=2,pp=2"), ("bert", "cp=2"),
)]  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "family", "layout"),
    [case if case in (NARROW[0], NARROW[8]) else pytest.param(*case, marks=pytest.mark.slow) for case in NARROW],
)
def test_narrow_formats(precision: str, family: str, layout: str, two: int, four: int) -> None:
    found = compared(family, [layout], f"precision={precision}")
    assert found.same, found.to_json()
    assert found.verdicts[0].differences["losses"].size > 0, "sums over processes are taken in another order"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_three_axes_on_eight_processes(family: str) -> None:
    with Processes(8) as eight:
        parity.warm.READY[8] = eight
        found = compared(family, ["dp=2,tp=2,pp=2"])
    del parity.warm.READY[8]
    assert found.same, found.to_json()
    assert (found.verdicts[0].strategy, found.verdicts[0].processes) == ("parallel", 8)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_what_the_ready_recipes_have(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clipping, a ragged last step, whose one feature leaves another process with filler alone, and an evaluation that does not divide."""
    monkeypatch.chdir(RECIPES)
    tree = yaml.safe_load((RECIPES / f"{family}.yaml").read_text())
    found, train = measure({**tree, "loggers": []}), tree["train"]
    assert all(step["grad_norm"] > train["clip_norm"] for step in found["steps"])
    assert {len(rows) for rows in found["rows"]} == {train["global_batch_size"], 1}
    first, end = tree["eval"]["data"]["split"].removeprefix("test[").rstrip("]").split(":")
    assert int(end) - int(first or 0) == 5, "texts"
    assert len(found["predictions"]) % 2 == 1


@contextlib.contextmanager
def another_order(rank: int) -> Iterator[None]:
    """Of rows, on every rank."""
    plain = spcore.loading.order
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spcore.loading.order", lambda count, seed, epoch: plain(count, seed + 1, epoch))
        yield


def test_another_order_of_rows(two: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity.warm, "AROUND", ["parity.test_parity:another_order"])
    (verdict,) = compared("gpt2", ["dp=2"]).verdicts
    assert {"rows", "loss", "gradient"} <= set(verdict.failed)
    assert verdict.rows.startswith("step 1: features too many: ")


@pytest.mark.parametrize(("fault", "said"), [("none", "different"), ("masks", "equal")])
def test_masks(fault: str, said: str, two: int) -> None:
    found = compared("bert", ["dp=2"], f"strategy={{use: faulty, fault: {fault}}}", dropout=0.1)
    assert found.verdicts[0].masks == said
    assert found.verdicts[0].failed == ([] if said == "different" else ["masks"])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fsdp=2", "dp=2,tp=2", "dp=2,pp=2", "dp=2,cp=2"])
def test_masks_of_layouts(layout: str, two: int, four: int) -> None:
    assert compared("bert", [layout], dropout=0.1).verdicts[0].masks == "different"


@pytest.mark.slow
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_curves_with_dropout_on(layout: str, two: int, four: int) -> None:
    (verdict,) = compared("bert", [layout], dropout=0.2, seeds=8, steps=20).verdicts
    assert verdict.curve is not None
    assert verdict.curve.same
    assert verdict.curve.difference != 0, "dropout is drawn elsewhere"
    assert not verdict.failed


def test_a_curve_that_is_apart() -> None:
    seeds = [2.0, 2.2, 2.1, 1.9]
    near, far = curves_apart([2.01, 2.19, 2.12, 1.89], seeds), curves_apart([s + 0.05 + s / 100 for s in seeds], seeds)
    assert (near.same, far.same) == (True, False)
    assert curves_apart(seeds, seeds).same
    assert not curves_apart([s + 0.5 for s in [2.0, 2.0]], [2.0, 2.0]).same
