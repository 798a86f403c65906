"""What strategy `megatron` refuses, and says: before any process starts and without Megatron. What it asks of a layout and a batch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from spcore.errors import RecipeError, RefusalError
from spcore.interfaces.precision import LossScaling, PrecisionPolicy
from spcore.interfaces.strategy import BatchRule
from spcore.recipe import load_recipe
from spcore.session import Session, assemble
from spcore_megatron import shim
from spcore_megatron.checks import nearest, refusals
from spcore_megatron.options import MegatronOptions
from spcore_megatron.strategy import Megatron
from tests.megatron.mega_recipes import recipe, registry

LLAMA = "causal-lm on llama"


def assembled(processes: int, *overrides: str, name: str = LLAMA) -> Session:
    parts = registry()
    settings = ["strategy=megatron", "launch=warm", f"launch.processes={processes}", *overrides]
    return assemble(load_recipe(recipe(name), settings, registry=parts), parts)


def refused(processes: int, *overrides: str, name: str = LLAMA) -> str:
    with pytest.raises(RefusalError) as caught:
        assembled(processes, *overrides, name=name)
    return str(caught.value)


@pytest.mark.parametrize(
    ("processes", "overrides", "said"),
    [
        (3, ("tensor_parallel=3",), "strategy.tensor_parallel 3: the model's 4 attention heads do not divide by it; use 2 or 4"),
        (3, ("pipeline_parallel=3",), "strategy.pipeline_parallel 3: the model's 4 layers do not divide by that many processes; use 2 or 4"),
        (
            4, ("pipeline_parallel=4", "virtual_pipeline=2"),
            "strategy.pipeline_parallel 4: the model's 4 layers do not divide by that many processes of 2 stages each; use 2",
        ),
        (3, ("tensor_parallel=2",), "strategy.tensor_parallel 2 does not give 3 processes; start 2 (launch.processes), or change the sizes"),
        (2, ("sequence_parallel=true",), "it does nothing without strategy.tensor_parallel above 1"),
        (2, ("virtual_pipeline=2",), "strategy.virtual_pipeline 2: it does nothing without strategy.pipeline_parallel above 1"),
        (
            2, ("pipeline_parallel=2", "virtual_pipeline=2", "overlap_p2p=false"),
            "strategy.overlap_p2p false: between two processes a batch pairs messages of different stages with each other; leave it out",
        ),
        (2, ("recompute_layers=1",), "strategy.recompute_layers 1: it does nothing without strategy.recompute=full"),
        (2, ("overlap_param_gather=true",), "it does nothing without strategy.distributed_optimizer=true"),
        (2, ("bucket_size=9",), "strategy.bucket_size 9: it does nothing without strategy.overlap_grad_reduce=true"),
        (2, ("expert_parallel=2",), "strategy.expert_parallel 2: the model has no experts; leave it out"),
    ],
)  # fmt: skip
def test_sizes_and_options(processes: int, overrides: tuple[str, ...], said: str) -> None:
    assert said in refused(processes, *(f"strategy.{text}" for text in overrides))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("optimizer=lion",), "optimizer 'lion': Megatron has optimizers of its own: Adam and SGD"),
        (("optimizer.use=sgd", "optimizer.nesterov=true"), "optimizer.nesterov: Megatron's SGD has none"),
        (
            ("optimizer.use=sgd", "strategy.distributed_optimizer=true"),
            "strategy.distributed_optimizer true: Megatron spreads the state of Adam alone, and optimizer is 'sgd'; leave it out, or use optimizer=adamw",
        ),
        (("optimizer.no_decay=[k_proj]",), "k_proj.weight are one tensor in Megatron, and would be updated in different ways"),
        (("precision=tf32",), "precision 'tf32': device 'cpu' has no TF32 products"),
        (("device=auto",), "device 'auto': strategy 'megatron' is for GPUs, and torch sees none; try it out on CPU processes with device=cpu"),
        (("device=cuda:0",), "device 'cuda:0': each process has a device of its own"),
        (("train.global_batch_size=1", "train.micro_batch_size=1"), "train.global_batch_size 1: 2 groups of processes share a step"),
        (("data.max_length=31", "strategy.context_parallel=2", "model.positions=31"), "make data.max_length 28 or less"),
    ],
)  # fmt: skip
def test_the_rest_of_a_recipe(overrides: tuple[str, ...], said: str) -> None:
    assert said in refused(2, *overrides)


def test_families_without_a_map() -> None:
    said = refused(2, "model.architecture=gpt_neox")
    assert "model family 'gpt_neox': strategy 'megatron' has no weight map for it; it has for: " in said
    assert "llama" in said
    assert "bert" in said


def test_heads_that_cannot_be_cut_off() -> None:
    said = refused(2, "model.dropout=0", name="text-classification on t5")
    assert "a head of kind 'sequence' on family 't5'" in said


def test_names_of_options_are_closed() -> None:
    with pytest.raises(RecipeError, match="did you mean 'tensor_parallel'"):
        assembled(2, "strategy.tensor_paralel=2")


def test_a_process_alone_is_not_the_callers() -> None:
    parts = registry()
    settings = ["strategy=megatron", "launch=inline"]
    with pytest.raises(RefusalError, match="launch 'inline': the strategy needs a process of its own"):
        assemble(load_recipe(recipe(LLAMA), settings, registry=parts), parts)


def test_policies_that_megatron_does_not_have() -> None:
    plan = assembled(2).plan
    slower = PrecisionPolicy("slow", compute="float16", loss_scaling=LossScaling(growth=1.5))
    half = PrecisionPolicy("half", parameter="bfloat16")
    for policy, said in ((slower, "its loss scale grows by 1.5"), (half, "parameters in bfloat16")):
        (found,) = refusals(replace(plan, precision=policy), MegatronOptions())
        assert said in str(found)


def test_ranks_count_along_tensor_first() -> None:
    options = MegatronOptions(tensor_parallel=2, context_parallel=2, pipeline_parallel=2)
    layout = Megatron(options).layout(16)
    assert dict(layout.axes) == {"pipeline": 2, "data": 2, "context": 2, "tensor": 2}
    assert [layout.place(rank, rank).data_rank for rank in range(16)] == [0, 0, 0, 0, 1, 1, 1, 1] * 2


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({}, BatchRule()),
        ({"tensor_parallel": 4, "sequence_parallel": True}, BatchRule("none", 4)),
        ({"context_parallel": 3}, BatchRule("none", 6)),
        ({"context_parallel": 2, "tensor_parallel": 4, "sequence_parallel": True}, BatchRule("none", 8)),
        ({"pipeline_parallel": 2}, BatchRule("step")),
        ({"pipeline_parallel": 4, "virtual_pipeline": 2}, BatchRule("step", 1, 4)),
    ],
)
def test_what_batches_must_be(options: dict[str, Any], rule: BatchRule) -> None:
    assert Megatron(MegatronOptions(**options)).batch_rule(assembled(2).plan) == rule


def test_layouts_by_their_axes() -> None:
    strategy = Megatron(MegatronOptions())
    assert strategy.options_for({}) is None
    assert strategy.options_for({"fsdp": 2}) is None
    assert strategy.options_for({"tp": 2, "dp": 3, "ep": 2}) == {
        "tensor_parallel": 2, "context_parallel": 1, "pipeline_parallel": 1, "data_parallel": 6, "expert_parallel": 2,
    }  # fmt: skip


@pytest.mark.parametrize(("size", "most", "said"), [(3, 12, "2 or 4"), (5, 12, "4 or 6"), (99, 12, "12"), (7, 7, "6")])
def test_nearest_sizes(size: int, most: int, said: str) -> None:
    assert nearest(size, lambda n: 12 % n == 0, most) == said


def test_the_shim_refuses_machines_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert shim.unfit() == "this machine has CUDA, of which Megatron would find a part"
    with pytest.raises(RefusalError, match="on device 'cpu': this machine has CUDA"), shim.installed():
        pass


def test_the_shim_refuses_versions_that_were_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shim, "version", lambda name: "0.17.0")
    assert shim.unfit().startswith("megatron-core 0.17.0 was not tried there, ")


def test_a_check_imports_no_megatron() -> None:
    code = (
        "import sys\n"
        "from tests.megatron.test_mega_checks import assembled\n"
        "assembled(2, 'strategy.tensor_parallel=2')\n"
        "assert not [name for name in sys.modules if name.startswith('megatron.core')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path), "PATH": ""})


def test_the_shim_leaves_torch_as_it_was() -> None:
    code = (
        "import torch\n"
        "before = {name: getattr(torch.cuda, name) for name in dir(torch.cuda)}\n"
        "from spcore_megatron import shim\n"
        "with shim.installed():\n"
        "    assert torch.zeros(2, device='cuda').device.type == 'cpu'\n"
        "    assert torch.zeros(2, dtype=torch.half).type() == 'torch.cuda.HalfTensor'\n"
        "    assert torch.zeros(2).cuda().device.type == 'cpu'\n"
        "    torch.cuda.manual_seed(3)\n"
        "    first = torch.rand(2)\n"
        "    torch.manual_seed(3)\n"
        "    assert first.equal(torch.rand(2))\n"
        "assert before == {name: getattr(torch.cuda, name) for name in before}\n"
        "assert torch.zeros(2).type() == 'torch.FloatTensor'\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
