"""An engine in a process that is ready for megatron-core: its device, the default process group, Megatron's own groups."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import replace

import torch

from spcore.interfaces.strategy import Engine, Place, Plan
from spcore.tensors.groups import device_of, group_of
from spcore_megatron import shim
from spcore_megatron.options import MegatronOptions


def engine(plan: Plan, place: Place, options: MegatronOptions) -> Engine:
    """The engine of a rank, which takes back what was changed for the process when it closes. megatron.core is imported here first: on a
    CPU under the shim."""
    device = device_of(plan, place)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # That Apex and Transformer Engine are not installed, a line for each file; `facts` says it once.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"megatron\.")
        if device == "cpu":
            stack.enter_context(shim.installed())
        else:
            torch.cuda.set_device(device)
        stack.enter_context(group_of(place, device))
        from spcore_megatron.engine import MegatronEngine
        from spcore_megatron.settings import groups

        stack.enter_context(groups(options))
        made = MegatronEngine(plan, replace(place, device=device), options)
        made.held_open = stack.pop_all()
    return made
