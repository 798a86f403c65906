"""What two probed runs differ by, figure by figure, and how much rounding may make of it."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spcore.probing import AGAIN, FINAL, GRADIENTS, INITIAL, MASKS, fed_to

if TYPE_CHECKING:
    import torch

    from spcore.interfaces.logger import Step
    from spcore.interfaces.strategy import Plan

FIGURES = {
    "initial": "weights before the first step, to the bit",
    "loss": "loss of the first step",
    "grad_norm": "gradient norm of the first step",
    "gradient": "each parameter's gradient in the first step",
    "losses": "losses of all steps",
    "weights": "weights after the last step",
    "evaluation": "figures of the evaluation",
}
"""What is compared, and what it is."""
_FP32 = {
    "initial": 0.0, "loss": 2e-6, "grad_norm": 1e-5, "gradient": 2e-5, "losses": 5e-5, "weights": 1e-4, "evaluation": 5e-4,
}  # fmt: skip
_SHORTER = {
    "initial": 0.0, "loss": 0.125, "grad_norm": 1.25, "gradient": 12.5, "losses": 0.75, "weights": 12.5,
}  # fmt: skip
"""Of formats with fewer bits, in units of their rounding: products of the same operands round alike wherever they are made, so it is the
fewer entries next to a border that part, and means over many even out."""
_BITS = {"float32": 24, "float16": 11, "tf32": 11, "bfloat16": 8, "float8": 4}
_COUNTED = 0.05
"""Of an evaluation in such a format: among a few dozen answers, as the ready recipes' accuracy has them, one or two that were near turn."""
_CHANCE = 1e-3
DIFFERENT = "different"
"""What masks of data ranks should be."""
_MOST = 0.1
"""Of any tolerance: a gradient that counts twice is off by 1, one that is averaged over two by 0.5."""
_FLOOR = 1e-3
"""Of the largest entry of all tensors: what a tensor's difference is relative to at least. A gradient that is zero but for rounding
(a BERT key's bias) is compared with that."""


@dataclass(frozen=True)
class Difference:
    """size: the largest relative difference, inf where something is missing or not finite. at: the parameter, step or figure."""

    size: float = 0.0
    at: str = ""


@dataclass(frozen=True)
class Curve:
    """Mean relative difference of losses over seeds; in standard errors, and how many are allowed."""

    difference: float
    errors: float
    allowed: float

    @property
    def same(self) -> bool:
        """Within the spread over seeds."""
        return self.errors <= self.allowed


@dataclass(frozen=True)
class Tolerance:
    """value: relative. reason: number format and length of the sums."""

    value: float
    reason: str


def tolerances(plan: Plan, tokens: int) -> dict[str, Tolerance]:
    """How far rounding may part two layouts of a plan, by figure. tokens: of the largest step, over which gradients are summed."""
    name, bits = _format(plan)
    unit = 2.0**-bits
    found = {}
    for figure, base in _FP32.items():
        value = base
        if name != "float32":
            value = _COUNTED if figure == "evaluation" else min(_MOST, _SHORTER[figure] * unit)
        found[figure] = Tolerance(value, _reason(figure, name, unit, tokens))
    return found


def _format(plan: Plan) -> tuple[str, int]:
    """The coarsest format of the policy, and its rounding: half of the last bit is 2^-bits."""
    precision = plan.precision
    names: list[str] = [precision.parameter, precision.compute, precision.reduction]
    names += ["tf32"] if precision.matmul == "tf32" else []
    names += ["float8"] if precision.fp8 is not None else []
    return min(((name, _BITS[name]) for name in names), key=lambda found: found[1])


def _reason(figure: str, name: str, unit: float, tokens: int) -> str:
    if figure == "initial":
        return "none: each parameter is drawn from the seed and its name, wherever it lies"
    sums = (
        f"{name} rounds by {unit:.0e}; sums over up to {tokens} tokens and the model's width are taken in another order"
    )
    later = {
        "losses": "; each step starts from what rounding made of the weights",
        "weights": "; Adam's step is of the same size whatever the gradient's, so entries with the smallest gradients part most",
        "evaluation": "; as the losses, figures such as perplexity enlarge it, and those that count answers go by whole ones",
    }
    return sums + later.get(figure, "")


def compared(
    folder: Path,
    steps: Sequence[Step],
    metrics: Mapping[str, float],
    wanted: tuple[Path, Sequence[Step], Mapping[str, float]],
) -> dict[str, Difference]:
    """Figure -> difference of a run from the `wanted` one: its folder, steps and metrics."""
    theirs, their_steps, their_metrics = wanted
    pairs = list(zip(steps, their_steps, strict=False))
    lost = [] if len(steps) == len(their_steps) else [Difference(math.inf, f"{len(steps)} steps")]
    return {
        "initial": tensors(folder / INITIAL, theirs / INITIAL),
        "loss": _largest(_number(a.loss, b.loss, f"step {a.step}") for a, b in pairs[:1]),
        "grad_norm": _largest(_number(a.grad_norm, b.grad_norm, f"step {a.step}") for a, b in pairs[:1]),
        "gradient": tensors(folder / GRADIENTS, theirs / GRADIENTS, absent=0.0),
        "losses": _largest([*(_number(a.loss, b.loss, f"step {a.step}") for a, b in pairs), *lost]),
        "weights": tensors(folder / FINAL, theirs / FINAL),
        "evaluation": _largest(
            _number(metrics.get(n, math.nan), their_metrics.get(n, math.nan), n) for n in {**their_metrics, **metrics}
        ),
    }  # fmt: skip


def tensors(folder: Path, wanted: Path, *, absent: float | None = None) -> Difference:
    """The largest difference of two folders' tensors, relative to the larger of a tensor's largest entry and a thousandth of the largest
    of all. absent: what the entries of one count as that only the other has; None: different."""
    from spcore.tensors.files import load_safetensors

    theirs = dict(load_safetensors(wanted))
    floor = _FLOOR * max((_most(t) for t in theirs.values()), default=0.0)
    found = []
    for name, tensor in load_safetensors(folder):
        other = theirs.pop(name, None)
        if other is None and absent is not None:
            other = tensor.new_full(tensor.shape, absent)
        found.append(Difference(math.inf if other is None else _apart(tensor, other, floor), name))
    for name, other in theirs.items():
        found.append(
            Difference(math.inf if absent is None else _apart(other.new_full(other.shape, absent), other, floor), name)
        )
    return _largest(found)


def masks_apart(folder: Path) -> tuple[float, float]:
    """Of what dropout draws (`spcore.probing`): the least difference between two data ranks' gradients, and between two draws of one."""
    found = folder / MASKS
    ranks = sorted(path for path in found.iterdir() if path.name != AGAIN)
    between = min(tensors(one, other, absent=0.0).size for one, other in itertools.combinations(ranks, 2))
    return between, tensors(found / AGAIN, found / "0", absent=0.0).size


def said_of_masks(between: float, drawn: float, limit: Tolerance) -> str:
    """What `masks_apart` found, in a word. limit: what rounding may make of gradients."""
    if drawn <= limit.value:
        return "none drawn"
    return "equal" if between <= limit.value else DIFFERENT


def curves_apart(curve: Sequence[float], wanted: Sequence[float]) -> Curve:
    """Losses of runs against those of others with the same seeds, so on the same rows: Student's paired test, two-sided, which finds
    one pair in a thousand apart that is not."""
    from scipy import stats

    differences = [a - b for a, b in zip(curve, wanted, strict=True)]
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    allowed = float(stats.t.ppf(1 - _CHANCE / 2, len(differences) - 1))
    errors = abs(mean) / (spread / math.sqrt(len(differences))) if spread else 0.0 if not mean else math.inf
    return Curve(mean / statistics.fmean(wanted), errors, allowed)


def _most(tensor: torch.Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _apart(tensor: torch.Tensor, other: torch.Tensor, floor: float) -> float:
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        return math.inf
    if not tensor.numel() or bool((tensor == other).all()):
        return 0.0
    difference = _most(tensor.double() - other.double()) / max(_most(other), floor, 1e-300)
    return difference if math.isfinite(difference) else math.inf


def _number(value: float, wanted: float, at: str) -> Difference:
    if value == wanted:
        return Difference(0.0, at)
    apart = abs(value - wanted) / max(abs(wanted), 1e-300)
    return Difference(apart if math.isfinite(apart) else math.inf, at)


def _largest(found: Iterable[Difference]) -> Difference:
    return max(found, key=lambda difference: difference.size, default=Difference())


def rows_apart(folder: Path, wanted: Path) -> str:
    """What is wrong about the features that ranks were fed, "" for nothing."""
    both = itertools.zip_longest(fed_to(folder), fed_to(wanted), fillvalue=Counter[int]())
    for step, (ours, theirs) in enumerate(both, 1):
        more, less = sorted((ours - theirs).elements()), sorted((theirs - ours).elements())
        if more or less:
            said = [
                f"{what} {', '.join(map(str, ids[:4]))}"
                for what, ids in (("too many:", more), ("missing:", less))
                if ids
            ]
            return f"step {step}: features {'; '.join(said)}"
    return ""
