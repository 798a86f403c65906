"""What plans and options are in megatron-core's words, for GPUs that the tests do not have."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

CODE = """
import json, torch
from spcore_megatron import shim
from tests.megatron.test_mega_checks import assembled

found = {}
with shim.installed():
    from spcore_megatron import settings
    from spcore_megatron.options import MegatronOptions
    for name, overrides, options in (
        ("plain", [], {}),
        ("bf16", ["precision=bf16"], {"distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True, "bucket_size": 7}),
        ("fp16", ["precision=fp16", "optimizer.use=sgd", "optimizer.momentum=0.5"], {}),
        ("recompute", [], {"recompute": "full"}),
        ("some layers", [], {"recompute": "full", "recompute_layers": 3}),
        ("selective", [], {"recompute": "selective", "pipeline_parallel": 4, "virtual_pipeline": 2, "overlap_p2p": False}),
        ("interleaved", [], {"pipeline_parallel": 2, "virtual_pipeline": 2}),
    ):
        plan, chosen = assembled(2, *overrides).plan, MegatronOptions(**options)
        found[name] = {
            **settings.transformer(plan, chosen, torch.device("cuda", 0)),
            **vars(settings.reduction(chosen)),
            **vars(settings.optimizer(plan, chosen)),
        }
print(json.dumps(found, default=str))
"""


@pytest.fixture(scope="module")
def found() -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE], check=True, capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "plain",
            {
                "params_dtype": "torch.float32", "bf16": False, "fp16": False, "grad_reduce_in_fp32": True, "optimizer": "adam",
                "calculate_per_token_loss": True, "clip_grad": 0.0, "use_distributed_optimizer": False, "bias_dropout_fusion": True,
                "virtual_pipeline_model_parallel_size": None, "batch_p2p_comm": True, "decoupled_weight_decay": True,
            },
        ),
        (
            "bf16",
            {
                "bf16": True, "params_dtype": "torch.bfloat16", "use_distributed_optimizer": True, "overlap_grad_reduce": True,
                "overlap_param_gather": True, "bucket_size": 7,
            },
        ),
        (
            "fp16",
            {
                "fp16": True, "initial_loss_scale": 65536.0, "loss_scale_window": 2000, "hysteresis": 1, "optimizer": "sgd",
                "sgd_momentum": 0.5, "optimizer_cpu_offload": False,
            },
        ),
        ("recompute", {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}),
        ("some layers", {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 3}),
        ("selective", {"recompute_granularity": "selective", "overlap_p2p_comm": False, "batch_p2p_comm": True}),
        ("interleaved", {"virtual_pipeline_model_parallel_size": 2, "overlap_p2p_comm": True, "batch_p2p_comm": False}),
    ],
)  # fmt: skip
def test_settings_in_megatrons_words(found: Any, name: str, wanted: dict[str, Any]) -> None:
    assert {key: found[name].get(key, "none") for key in wanted} == wanted
