from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spcore.errors import CheckpointError
from spcore.interfaces.precision import LossScaling, PrecisionPolicy
from spcore.interfaces.strategy import Gradients, Place, Plan, StepReport
from spcore.interfaces.task import Batch
from spcore_torch.options import SingleOptions
from spcore_torch.single import SingleEngine
from support.stored import content
from tensors.tensor_fakes import SHARE, Adam, Pairs, Weighted, batch_of, cut, plan_of, rows_of

ROWS = rows_of()
LR = 1e-2


def engine_of(plan: Plan, **options: Any) -> SingleEngine:
    return SingleEngine(plan, Place(), SingleOptions(**options))


def train(engine: SingleEngine, steps: Sequence[Sequence[Batch]]) -> list[StepReport]:
    return [engine.train_step(step, LR, n) for n, step in enumerate(steps)]


def weights_of(engine: SingleEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.weights()}


def alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], limit: float) -> bool:
    """By each tensor's largest entry, or a thousandth of the model's where that is larger."""
    assert found.keys() == expected.keys()
    largest = max(float(t.abs().max()) for t in expected.values())
    floor = [max(float(t.abs().max()), largest * 1e-3) for t in expected.values()]
    return all(
        float((found[n] - t).abs().max()) <= limit * f for (n, t), f in zip(expected.items(), floor, strict=True)
    )


def exactly(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(found[n].equal(t) for n, t in expected.items())


# -- a step is what plain torch computes, in any cut -----------------------------------------------------------------


def plain_step(plan: Plan, batch: Batch) -> tuple[float, dict[str, float], dict[str, torch.Tensor], float]:
    """Loss, terms, gradients and norm by torch's own functions on the padded batch."""
    module = engine_of(plan, flatten="never").module.double()
    for linear in module.modules():
        linear.__dict__.pop("forward", None)
    logits = module(**{n: torch.from_numpy(a) for n, a in batch.inputs.items()})["logits"]
    labels, weight = torch.from_numpy(batch.targets["labels"]), torch.from_numpy(batch.targets["weight"]).double()
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    terms = {"classes": (each * weight).sum() / weight.sum(), "size": logits.square().mean()}
    loss = terms["classes"] + SHARE * terms["size"]
    loss.backward()
    grads = {n: p.grad.float() for n, p in module.named_parameters()}
    norm = float(torch.stack([g.double().norm() for g in grads.values()]).norm())
    return loss.item(), {n: v.item() for n, v in terms.items()}, grads, norm


@pytest.mark.parametrize("size", [8, 4, 2, 1])
@pytest.mark.parametrize("flatten", ["auto", "never"])
def test_any_cut_gives_what_plain_torch_gives(size: int, flatten: str) -> None:
    plan = plan_of(Weighted())
    loss, terms, grads, norm = plain_step(plan, batch_of(ROWS))
    engine = engine_of(plan, flatten=flatten)
    assert engine.flat == (flatten == "auto")
    assert isinstance(engine, Gradients)
    assert alike(dict(engine.gradients(cut(ROWS, size))), grads, 1e-5)
    report = engine.train_step(cut(ROWS, size), LR, 0)
    assert report.loss == pytest.approx(loss, rel=1e-6)
    assert report.terms == pytest.approx(terms, rel=1e-6)
    assert report.grad_norm == pytest.approx(norm, rel=1e-5)
    assert report.totals == pytest.approx({"classes": sum(r["weight"] for r in ROWS), "size": 8.0}, rel=1e-6)
    assert (report.applied, report.loss_scale, report.nonfinite) == (True, 1.0, ())


def test_filler_has_no_effect() -> None:
    plan = plan_of(Weighted())
    whole, filled = engine_of(plan), engine_of(plan)
    only_filler = batch_of([{**ROWS[0], "id": -1, "label": -100, "weight": 0.0}])
    one = train(whole, [cut(ROWS, 8)] * 3)
    two = train(filled, [[*cut(ROWS, 4, fill=2), only_filler]] * 3)
    for a, b in zip(one, two, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=1e-6)
        assert b.totals == pytest.approx(a.totals, rel=1e-6)
    assert alike(weights_of(filled), weights_of(whole), 1e-5)


def test_a_term_without_weight_contributes_nothing() -> None:
    engine = engine_of(plan_of(Weighted()))
    before = weights_of(engine)
    none = batch_of([{**row, "id": -1, "label": -100, "weight": 0.0} for row in ROWS])
    report = engine.train_step([none], 0.0, 0)
    assert (report.loss, report.grad_norm, report.applied) == (0.0, 0.0, True)
    assert exactly(weights_of(engine), before)
    half = [{**row, "weight": 0.0, "label": -100} for row in ROWS]
    report = engine.train_step([batch_of(half)], LR, 0)
    assert report.terms["classes"] == 0.0
    assert report.loss == pytest.approx(SHARE * report.terms["size"])


def test_a_batch_without_a_term_s_weight_is_a_fault() -> None:
    batch = replace(batch_of(ROWS), weights={"classes": 1.0})
    with pytest.raises(AssertionError, match="no weight for loss term 'size'"):
        engine_of(plan_of(Weighted())).train_step([batch], LR, 0)


def test_the_update_is_adamw_s_after_clipping() -> None:
    """Groups, decay, learning rates by group, and the clip, against torch's own steps on the engine's gradients."""
    plan = plan_of(Weighted(), clip_norm=0.05)
    engine, other = engine_of(plan), engine_of(plan)
    names = list(other.own_parameters())
    params = {n: p.detach().clone().requires_grad_() for n, p in other.own_parameters().items()}
    matrices = [n for n in names if params[n].dim() > 1]
    theirs = torch.optim.AdamW(
        [
            {"params": [params[n] for n in matrices], "weight_decay": 0.01, "lr": LR},
            {"params": [params[n] for n in names if n not in matrices], "weight_decay": 0.0, "lr": LR / 2},
        ],
        eps=1e-6,
    )
    for step in range(3):
        for name, grad in engine.gradients(cut(ROWS, 4)):
            params[name].grad = grad
        torch.nn.utils.clip_grad_norm_(params.values(), 0.05)
        theirs.step()
        assert engine.train_step(cut(ROWS, 4), LR, step).grad_norm > 0.05
    assert alike(weights_of(engine), {n: p.detach() for n, p in params.items()}, 1e-5)


def test_fused_or_not_is_the_same() -> None:
    runs = []
    for fused in (True, False):
        engine = engine_of(plan_of(Weighted(), optimizer=Adam(fused), clip_norm=0.1))
        train(engine, [cut(ROWS, 4)] * 3)
        runs.append(weights_of(engine))
    assert alike(runs[0], runs[1], 1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("size", [8, 4, 2])
def test_a_loss_over_the_whole_batch_is_one_whole_forward(size: int, dropout: float) -> None:
    """With dropout each cut draws for itself, so only the two passes of one cut can agree: gradients against plain autograd."""
    task = Pairs(dropout)
    engine, plain = engine_of(plan_of(task), flatten="never"), engine_of(plan_of(task), flatten="never")
    batches = [replace(b, weights={"contrast": float(size)}) for b in cut(ROWS, size)]
    with plain.owned():
        plain.module.train()
        ready = [plain.prepared(batch) for batch in batches]
        whole = torch.cat([plain.module(**batch.inputs)["logits"] for batch in ready])
        loss = task.whole_loss(whole, None)[0].sum / 8  # type: ignore[arg-type]
        loss.backward()
    expected = {n: p.grad for n, p in plain.own_parameters().items()}
    assert alike(dict(engine.gradients(batches)), expected, 1e-5)


def test_filler_and_order_do_not_reach_a_loss_over_the_whole_batch() -> None:
    plan = plan_of(Pairs())
    one = engine_of(plan).train_step([replace(batch_of(ROWS), weights={"contrast": 8.0})], LR, 0)
    turned = [replace(b, weights={"contrast": 4.0}) for b in reversed(cut(ROWS, 4, fill=1))]
    two = engine_of(plan).train_step(turned, LR, 0)
    assert two.loss == pytest.approx(one.loss, rel=1e-6)
    assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)


# -- alone in the process ---------------------------------------------------------------------------------------------


def test_two_threads_train_each_as_if_alone() -> None:
    plans = [plan_of(Weighted(dropout=0.3), seed=seed) for seed in (1, 2)]

    def run(plan: Plan, into: dict[int, dict[str, torch.Tensor]], threads: int) -> None:
        engine = engine_of(plan, threads=threads)
        train(engine, [cut(ROWS, 2)] * 6)
        into[plan.seed] = weights_of(engine)

    alone: dict[int, dict[str, torch.Tensor]] = {}
    together: dict[int, dict[str, torch.Tensor]] = {}
    for plan in plans:
        run(plan, alone, 1)
    before = torch.get_rng_state()
    threads = [threading.Thread(target=run, args=(plan, together, 1)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(exactly(together[seed], alone[seed]) for seed in (1, 2))
    assert torch.get_rng_state().equal(before)


def test_dropout_is_the_engine_s_own() -> None:
    engine, again, other = (engine_of(plan_of(Weighted(0.5), seed=seed)) for seed in (1, 1, 2))
    torch.manual_seed(0)
    one = engine.train_step(cut(ROWS, 4), LR, 0).loss
    torch.manual_seed(1)
    assert again.train_step(cut(ROWS, 4), LR, 0).loss == one
    assert not engine.random["cpu"].equal(other.random["cpu"])
    part = engine.eval_step(cut(ROWS, 4))
    assert part == engine.eval_step(cut(ROWS, 4)), "no dropout in an evaluation"


# -- saving and going on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["fp32", "bf16", "fp16"])
def test_a_run_that_stopped_goes_on_to_the_bit(tmp_path: Path, policy: str) -> None:
    scaling = LossScaling(initial=64.0, interval=2) if policy == "fp16" else None
    compute = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[policy]
    precision = PrecisionPolicy(policy, compute=compute, loss_scaling=scaling)  # type: ignore[arg-type]
    plan = plan_of(Weighted(dropout=0.3), precision=precision)
    straight = engine_of(plan)
    train(straight, [cut(ROWS, 4)] * 3)
    straight.save(tmp_path).wait()
    ended = train(straight, [cut(ROWS, 4)] * 3)
    resumed = engine_of(plan)
    resumed.load(tmp_path)
    again = train(resumed, [cut(ROWS, 4)] * 3)
    assert again == ended
    assert exactly(weights_of(resumed), weights_of(straight))
    assert [p.name for p in tmp_path.iterdir()] == ["rank-00000.safetensors"]


def test_an_update_waits_until_a_save_has_copied_what_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, plain = engine_of(plan_of(Weighted(0.3))), engine_of(plan_of(Weighted(0.3)))
    for one in (engine, plain):
        train(one, [cut(ROWS, 4)])
    for name in ("plain", "late"):
        (tmp_path / name).mkdir()
    plain.save(tmp_path / "plain").wait()
    copied, waited, go = engine.staging.copied, threading.Event(), threading.Event()

    def late(file: int, name: str, value: torch.Tensor) -> torch.Tensor:
        if threading.current_thread().name.startswith("checkpoint-file"):
            assert go.wait(60)
        return copied(file, name, value)

    settle = engine.staging.settle
    monkeypatch.setattr(engine.staging, "copied", late)
    monkeypatch.setattr(engine.staging, "settle", lambda: (waited.set(), settle()))
    saving = engine.save(tmp_path / "late")
    training = threading.Thread(target=train, args=(engine, [cut(ROWS, 4)]))
    before = weights_of(engine)
    training.start()
    assert waited.wait(60), "forward and backward go on beside the copying"
    assert exactly(weights_of(engine), before), "and nothing is updated"
    go.set()
    training.join()
    saving.wait()
    assert not exactly(weights_of(engine), before)
    (one,), (other,) = ((tmp_path / name).iterdir() for name in ("late", "plain"))
    assert content(one) == content(other)


def test_state_of_another_model_is_refused(tmp_path: Path) -> None:
    from spcore.testing.fakes.language import FakeConfig, FakeLanguageModel

    engine_of(plan_of(Weighted())).save(tmp_path).wait()
    wider = engine_of(plan_of(Weighted(), FakeLanguageModel(FakeConfig(hidden_size=33))))
    with pytest.raises(CheckpointError, match=r"is \(64, 32\) there, the model's is \(64, 33\)"):
        wider.load(tmp_path)
    deeper = engine_of(plan_of(Weighted(), FakeLanguageModel(FakeConfig(hidden_size=32, num_hidden_layers=3))))
    with pytest.raises(CheckpointError, match=r"has no 'model\.layers\.2\.mix\.weight'"):
        deeper.load(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        wider.load(tmp_path / "nowhere")


# -- precision --------------------------------------------------------------------------------------------------------


def half(interval: int = 100, initial: float = 1024.0) -> PrecisionPolicy:
    return PrecisionPolicy("fp16", compute="float16", loss_scaling=LossScaling(initial=initial, interval=interval))


def test_an_overflow_is_left_out_and_the_scale_backs_off() -> None:
    plan = plan_of(Weighted(), precision=half(interval=2, initial=2.0**30))
    engine = engine_of(plan)
    before = weights_of(engine)
    first = engine.train_step(cut(ROWS, 4), LR, 0)
    assert not first.applied
    assert first.nonfinite
    assert first.nonfinite[0].startswith("gradient of ")
    assert first.loss_scale == 2.0**30
    assert exactly(weights_of(engine), before), "the step was left out"
    assert engine.optimizer is not None
    assert not engine.optimizer.state
    reports = train(engine, [cut(ROWS, 4)] * 24)
    scales = [r.loss_scale for r in reports]
    assert scales[0] == 2.0**29
    done = next(n for n, r in enumerate(reports) if r.applied)
    assert all(a == 2 * b for a, b in itertools.pairwise(scales[: done + 1]))
    assert scales[done : done + 3] == [scales[done], scales[done], 2 * scales[done]], "it grows after two good steps"
    assert reports[-1].loss < first.loss


@pytest.mark.parametrize(("policy", "limit"), [(half(), 2e-2), (PrecisionPolicy("bf16", compute="bfloat16"), 1e-1)])
def test_low_precision_products_keep_float32_masters(policy: PrecisionPolicy, limit: float) -> None:
    full, low = engine_of(plan_of(Weighted())), engine_of(plan_of(Weighted(), precision=policy))
    assert alike(dict(low.gradients(cut(ROWS, 4))), dict(full.gradients(cut(ROWS, 4))), limit)
    expected, found = train(full, [cut(ROWS, 4)] * 8), train(low, [cut(ROWS, 4)] * 8)
    assert [r.loss for r in found] == pytest.approx([r.loss for r in expected], rel=5e-2)
    assert {p.dtype for p in low.module.parameters()} == {torch.float32}
    assert found[-1].loss < found[0].loss


def test_low_precision_copies_follow_the_update() -> None:
    """A layer's bf16 weight is made anew after every optimizer step: a fresh engine with these weights gives the same loss."""
    plan = plan_of(Weighted(), precision=PrecisionPolicy("bf16", compute="bfloat16"))
    trained, fresh = engine_of(plan), engine_of(plan)
    train(trained, [cut(ROWS, 8)] * 3)
    with torch.no_grad():
        for p, q in zip(fresh.module.parameters(), trained.module.parameters(), strict=True):
            p.copy_(q)
    assert fresh.train_step(cut(ROWS, 8), 0.0, 0).loss == trained.train_step(cut(ROWS, 8), 0.0, 0).loss


# -- what is not finite -----------------------------------------------------------------------------------------------


def test_what_is_not_finite_is_named_and_left_out() -> None:
    task = Weighted()
    engine = engine_of(plan_of(task))
    before = weights_of(engine)
    task.blow_up = float("inf")
    report = engine.train_step(cut(ROWS, 4), LR, 0)
    assert not report.applied
    assert report.nonfinite[0] == "loss 'classes'"
    assert "gradient of head.out.weight" in report.nonfinite
    assert exactly(weights_of(engine), before)
    task.blow_up = 0.0
    assert engine.train_step(cut(ROWS, 4), LR, 1).applied


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_evaluation_counts_each_feature_once_in_any_cut() -> None:
    engine = engine_of(plan_of(Weighted()))
    parts = [engine.eval_step(batches) for batches in (cut(ROWS, 8), cut(ROWS, 3, fill=1))]
    assert parts[0] == parts[1]
    assert parts[0] is not None
    assert [row["feature_id"] for row in parts[0].rows] == list(range(8))
    assert parts[0].sums == {"rows": 8.0}
    assert not any(p.grad is not None for p in engine.module.parameters())


def test_weights_are_copies_nobody_else_needs_and_counts_are_right() -> None:
    engine = engine_of(plan_of(Weighted()))
    found = weights_of(engine)
    assert set(found) == set(engine.own_parameters())
    assert engine.parameters() == (sum(t.numel() for t in found.values()),) * 2
    assert not list(engine.weights("adapter")) or set(dict(engine.weights("adapter"))) == set(found)
    assert engine.agree(3) == 3
    assert engine.collect("x") == ["x"]
    assert engine.peak_memory() > 10**7


def test_facts_say_what_was_chosen() -> None:
    facts = engine_of(plan_of(Weighted()), threads=1).facts()
    assert facts["device"] == "cpu"
    assert facts["threads"] == "1"
    assert facts["linear kernel"] in ("default", "onednn")
    assert facts["padding"] == "none: microbatches are fed flat"
    assert facts["new parameters"].endswith(" more")
    assert all(isinstance(value, str) for value in facts.values())


def test_closing_gives_the_memory_back() -> None:
    engine = engine_of(plan_of(Weighted()))
    module = engine.module
    engine.close()
    engine.close()
    assert not list(engine.module.parameters())
    assert all("forward" not in m.__dict__ for m in module.modules())


@pytest.fixture(autouse=True)
def nothing_of_the_process_changes() -> Iterator[None]:
    def state() -> tuple[Any, ...]:
        precision = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
        return *precision, torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()

    before = copy.copy(state())
    yield
    assert state() == before
