"""The float32 originals of 16-bit parameters, which Megatron's optimizers keep: whole, or with the distributed optimizer a part a rank.

Megatron makes them of the rounded ones, so a model would lose bits as it is opened. Here values are put into float32 parameters, these are
rounded, and what they were is put into the originals once there are any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state as ps

Exact = Mapping[torch.nn.Parameter, torch.Tensor]


def widen(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Give parameters float32 storage, without values."""
    for parameter in parameters:
        parameter.data = torch.zeros_like(parameter, dtype=torch.float32)


def rounded(parameters: Iterable[torch.nn.Parameter], dtype: torch.dtype) -> Exact:
    """Round parameters to a format; what they were."""
    exact = {}
    for parameter in parameters:
        exact[parameter] = parameter.data
        parameter.data = parameter.data.to(dtype)
    return exact


def put(optimizer: Any, exact: Exact) -> None:
    """Set the originals."""
    for parameter, value in exact.items():
        main = getattr(parameter, "main_param", None)
        if main is not None:
            main.data.copy_(_mine(optimizer, parameter, value))


def original(optimizer: Any, parameter: torch.Tensor) -> torch.Tensor:
    """The whole original of a parameter, itself where it has none. Collective over its data-parallel group where ranks have parts."""
    main = getattr(parameter, "main_param", None)
    if not getattr(parameter, "main_param_sharded", False) or parameter.dtype == torch.float32:
        return parameter.detach() if main is None else main.detach()
    whole = torch.zeros_like(parameter, dtype=torch.float32)
    if main is not None:
        _mine(optimizer, parameter, whole).copy_(main.detach())
    expert = not getattr(parameter, "allreduce", True)
    group = ps.get_expert_data_parallel_group() if expert else ps.get_data_parallel_group(with_context_parallel=True)
    dist.all_reduce(whole, group=group)
    return whole


def _mine(optimizer: Any, parameter: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """A view of what this rank has the original of."""
    if not getattr(parameter, "main_param_sharded", False):
        return whole
    part = next(one for one in optimizer.chained_optimizers if parameter in one.model_param_gbuf_map)
    span = part._get_model_param_range_map(parameter)["param"]
    return whole.view(-1)[span.start : span.end]
