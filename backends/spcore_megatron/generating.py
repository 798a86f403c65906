"""Text in mid-training, for an evaluation by generating: Hugging Face's own module with the weights as they are now, whole in every process
while it lasts. Each data rank then decodes for itself, whatever the layout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from spcore.errors import RunError
from spcore.interfaces.model import Steps
from spcore.interfaces.runtime import Decodes
from spcore.tensors.exhaustion import out_of_memory
from spcore.tensors.materialise import named_tensors, tie
from spcore_megatron import settings

if TYPE_CHECKING:
    from spcore_megatron.engine import MegatronEngine


def module_of(engine: MegatronEngine) -> torch.nn.Module:
    """The whole model on this process's device, in float32. Collective."""
    plan = engine.plan
    anatomy = plan.model.anatomy(plan.head)
    module: torch.nn.Module = plan.model.build(plan.head).to_empty(device=engine.device)
    tie(module, anatomy)
    own = named_tensors(module, anatomy.tied)
    with torch.no_grad():
        for name, tensor in engine.weights():  # the first rank is given them
            own[name].copy_(tensor)
        for name, tensor in own.items():
            if name in engine.computed:
                tensor.copy_(engine.computed[name])
            elif engine.together:
                dist.broadcast(tensor.data, 0)
    return module.eval().requires_grad_(False)


@contextlib.contextmanager
def decoding(engine: MegatronEngine, slots: int, length: int, encoder_length: int) -> Iterator[Decodes]:
    """See `spcore.interfaces.strategy.LendsDecoder.decoding`."""
    model, compute = engine.plan.model, settings.dtype_of(engine.plan)
    assert isinstance(model, Steps), "`assemble` refuses models that do not step"
    with engine.owned():
        try:
            module = module_of(engine)
            with torch.no_grad(), torch.autocast(engine.device.type, compute, enabled=compute != torch.float32):
                yield model.decoder(module, slots, length, encoder_length)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            said = f"{engine.device}: not enough memory for the whole model and {slots} rows of {length + encoder_length} tokens"
            raise RunError(said, hint="Try a smaller eval.batch_tokens, or eval.generate=0") from error
