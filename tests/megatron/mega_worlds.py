"""Megatron's stages of small models, run in processes over gloo and compared with transformers' own model."""

from __future__ import annotations

import importlib
import itertools
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.megatron.mega_models import CASES, REAL, Case, batch, made, reference

WORLD, LIMIT = 4, 240
LAYOUTS: dict[str, dict[str, Any]] = {
    "tp1": {},
    "tp2": {"tensor_model_parallel_size": 2},
    "pp2": {"pipeline_model_parallel_size": 2},
    "tp2pp2": {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2},
    "cp2": {"context_parallel_size": 2},
    "tp2sp": {"tensor_model_parallel_size": 2, "sequence_parallel": True},
    "ep2tp2sp": {
        "expert_model_parallel_size": 2,
        "expert_tensor_parallel_size": 1,
        "tensor_model_parallel_size": 2,
        "sequence_parallel": True,
    },
    "tp3": {"tensor_model_parallel_size": 3},
    "tp4": {"tensor_model_parallel_size": 4},
}


def run(
    wanted: list[tuple[str, str]], folder: Path, world: int = WORLD, limit: float = LIMIT
) -> dict[tuple[str, str], dict[str, Any]]:
    """`figures` of each (case, layout), from processes that are given `limit` seconds for all of them."""
    until = time.monotonic() + limit
    context = mp.start_processes(
        work, (str(folder / "meeting"), wanted, str(folder), world), nprocs=world, join=False, start_method="spawn"
    )
    try:
        while not context.join(max(0.1, until - time.monotonic())):
            assert time.monotonic() < until, (
                f"not done after {limit} s: {sorted(path.name for path in folder.glob('*.json'))}"
            )
    finally:
        for process in context.processes:
            process.kill()
    return {(name, layout): json.loads((folder / f"{name}-{layout}.json").read_text()) for name, layout in wanted}


def work(rank: int, meeting: str, wanted: list[tuple[str, str]], folder: str, world: int = WORLD) -> None:
    """One process: for each (case, layout) figures go to a file of the folder."""
    import warnings

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")  # looks through torch.cuda as it is imported
    from spcore_megatron import shim

    with shim.installed():
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=timedelta(seconds=LIMIT)
        )
        from megatron.core import parallel_state as ps
        from megatron.core import tensor_parallel

        for layout, pairs in itertools.groupby(sorted(wanted, key=lambda pair: pair[1]), key=lambda pair: pair[1]):
            sizes = {key: n for key, n in LAYOUTS[layout].items() if key != "sequence_parallel"}
            ps.initialize_model_parallel(**sizes, order="tp-cp-ep-dp-pp")
            tensor_parallel.model_parallel_cuda_manual_seed(1)
            for name, _ in pairs:
                found = figures({**CASES, **REAL}[name], LAYOUTS[layout])
                if rank == 0:
                    (Path(folder) / f"{name}-{layout}.json").write_text(json.dumps(found))
            ps.destroy_model_parallel()
        dist.destroy_process_group()


def build(case: Case, hf: Any, layout: dict[str, Any]) -> tuple[Any, Any]:
    """(this rank's stage with the model's values, its weights)."""
    from megatron.core import parallel_state as ps

    from spcore_megatron.families import family_of
    from spcore_megatron.weights import Weights
    from tests.megatron.mega_models import bridges

    family = family_of(hf.config.model_type, bridges())
    config = family.config(
        hf.config, use_cpu_initialization=True, pipeline_dtype=torch.float32,
        **layout,
    )  # fmt: skip
    tied = dict(hf.all_tied_weights_keys) if case.vocabulary else {}
    stage = family.build(
        config, hf.config, vocabulary=case.vocabulary, tied=family.ties(tied), packs="segment_ids" in case.inputs,
        pre_process=ps.is_pipeline_first_stage(), post_process=ps.is_pipeline_last_stage(),
    )  # fmt: skip
    base = hf.base_model_prefix if case.vocabulary and not family.encoder else ""
    weights = Weights([stage], family.rules(hf.config), config, hf.config.vocab_size, base=base, tied=tied)
    stored = hf.state_dict()
    assert weights.names <= set(stored), weights.names.difference(stored)
    with torch.no_grad():
        for name in weights.names:
            weights.put(name, stored[name])
    return stage.eval(), weights


def outputs(stage: Any, inputs: dict[str, torch.Tensor], case: Case, size: int) -> torch.Tensor | None:
    """What the last stage gives, whole: [B, T, V] or [B, T, H]; None on others."""
    from megatron.core import parallel_state as ps
    from megatron.core import tensor_parallel
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from spcore_megatron.attention import held

    rows, length = inputs["input_ids"].shape
    with torch.no_grad():
        found = get_forward_backward_func()(
            forward_step_func=lambda _, m: (m(inputs), lambda out, non_loss_data=True: out), data_iterator=iter([0]), model=stage,
            num_microbatches=1, seq_length=length, micro_batch_size=rows, forward_only=True, collect_non_loss_data=True,
        )  # fmt: skip
    if not ps.is_pipeline_last_stage():
        return None
    out = found[0]
    if case.vocabulary:
        out = tensor_parallel.gather_from_tensor_model_parallel_region(out)[..., :size]
    ranks = ps.get_context_parallel_world_size()
    if ranks > 1:
        parts = [torch.empty_like(out) for _ in range(ranks)]
        dist.all_gather(parts, out.contiguous(), group=ps.get_context_parallel_group())
        places = torch.cat([held(length, n, ranks) for n in range(ranks)])
        out = torch.cat(parts, 1)[:, places.argsort()]
    return out


def figures(case: Case, layout: dict[str, Any]) -> dict[str, Any]:
    """largest: difference of outputs from transformers' at real positions; scale: of the latter; names that the export lacks, has too
    often, and that differ by a bit."""
    hf = made(case)
    stage, weights = build(case, hf, layout)
    inputs = batch(case)
    out = outputs(stage, inputs, case, hf.config.vocab_size)
    want, real = reference(case, hf, inputs)
    mine = None if out is None else float((out - want)[real].abs().max())
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, mine)
    stored = hf.state_dict()
    tied = dict(hf.all_tied_weights_keys) if case.vocabulary else {}
    got: list[tuple[str, torch.Tensor]] = list(weights.export())
    kept = {name for name in stored if name not in tied and name not in case.elsewhere}
    return {
        "largest": max(x for x in every if x is not None),
        "scale": float(want.abs().max()),
        "lacking": sorted(kept.difference(name for name, _ in got)),
        "strange": sorted({name for name, _ in got}.difference(kept)),
        "twice": len(got) - len({name for name, _ in got}),
        "differ": [name for name, tensor in got if name in stored and not torch.equal(tensor, stored[name])],
    }
