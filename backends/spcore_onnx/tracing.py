"""From a torch module to a graph: `torch.onnx.export(dynamo=True)`, with attention emitted as one node where a family asks
transformers for its attention function, so that nothing has to be found again in a pattern.

Runs at export only; imports torch. Families with an attention of their own (DeBERTa) are exported operator by operator.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from spcore.errors import RefusalError
from spcore.imports import undisturbed
from spcore.tensors.process import LOCK

if TYPE_CHECKING:
    import onnx_ir

NAME = "spcore_onnx"
TAP = "tap::"
"""What an extra output is called that shows a layer's hidden states, before the layer's path."""
OPSET = 20
"""The first with Gelu as an operator; browsers' and phones' runtimes have it."""


class Tapped(torch.nn.Module):  # type: ignore[misc]
    """A module called by position, in `names`; gives its outputs in the order of `outputs`, then the hidden states that each module
    of `taps` gives. So a graph and the module that it was made of can be compared layer by layer."""

    def __init__(
        self, module: torch.nn.Module, names: Sequence[str], outputs: Sequence[str], taps: Sequence[str]
    ) -> None:
        super().__init__()
        self.module, self.names, self.outputs, self.taps = module, tuple(names), tuple(outputs), tuple(taps)
        self._seen: dict[str, torch.Tensor] = {}
        for path in self.taps:
            module.get_submodule(path).register_forward_hook(self._keeper(path))

    def _keeper(self, path: str) -> Callable[..., None]:
        def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
            self._seen[path] = output[0] if isinstance(output, tuple) else output

        return keep

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """inputs: [S, L] each -> outputs, then [S, L, H] for each tap."""
        self._seen.clear()
        found = self.module(**dict(zip(self.names, inputs, strict=True)))
        # A tap that is an output too must be another value: one value has one name.
        return (*(found[name] for name in self.outputs), *(self._seen[path] * 1 for path in self.taps))


def attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, *, scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention as transformers calls it, given out as one `com.microsoft::MultiHeadAttention`. query, key, value: [S, heads, L, D];
    mask: bool [S, 1, 1 or L, L], True = attended -> [S, L, heads, D]."""
    sequences, heads, _, depth = query.shape
    if key.shape[1] != heads:  # heads that share keys and values
        key, value = (x.repeat_interleave(heads // key.shape[1], 1) for x in (key, value))

    def flat(x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2).reshape(sequences, -1, heads * depth)

    inputs: list[torch.Tensor | None] = [flat(query), flat(key), flat(value)]
    if mask is not None and mask.shape[2] == 1:
        inputs += [None, mask[:, 0, 0].to(torch.int32)]
    elif mask is not None:
        inputs += [None, None, torch.where(mask, 0.0, torch.finfo(query.dtype).min).to(query.dtype)]
    attributes = {"num_heads": heads, "scale": float(scaling if scaling is not None else depth**-0.5)}
    shape = (sequences, query.shape[2], heads * depth)
    found = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention", inputs, attributes, dtype=query.dtype, shape=shape, version=1
    )
    return found.reshape(sequences, -1, heads, depth), None


def _mask(
    *args: Any, attention_mask: torch.Tensor | None = None, mask_function: Any, **rest: Any
) -> torch.Tensor | None:
    """A mask of padding alone stays one row a sequence; others (windows) are what sdpa takes."""
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    if mask_function is bidirectional_mask_function and attention_mask is not None and not rest.get("q_offset"):
        return attention_mask[:, None, None, :]
    rest["allow_is_causal_skip"] = False  # left out, it would be for the attention to know
    found: torch.Tensor | None = sdpa_mask(*args, attention_mask=attention_mask, mask_function=mask_function, **rest)
    return found


@contextlib.contextmanager
def emitting(module: torch.nn.Module) -> Iterator[None]:
    """Meanwhile, modules of transformers that look up their attention function find `attention`."""
    with undisturbed():
        from transformers import AttentionInterface, AttentionMaskInterface
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _mask)
    configs = {
        id(m.config): m.config for m in module.modules() if hasattr(getattr(m, "config", None), "_attn_implementation")
    }
    before = {key: config._attn_implementation for key, config in configs.items()}
    # "eager" is asked for by families that know no other, which look nothing up.
    chosen = [key for key, config in configs.items() if _looks_up(module) and config._attn_implementation is not None]
    for key in chosen:
        configs[key]._attn_implementation_internal = NAME
    try:
        yield
    finally:
        for key in chosen:
            configs[key]._attn_implementation_internal = before[key]


def _looks_up(module: torch.nn.Module) -> bool:
    return any(getattr(m, "_supports_sdpa", False) for m in module.modules())


def trace(
    module: torch.nn.Module, names: Sequence[str], outputs: Sequence[str], taps: Sequence[str], longest: int
) -> onnx_ir.Model:
    """The graph of a module on the CPU in evaluation mode, [S, L] free. longest: tokens of a sequence at most. Raises RefusalError
    that names the operator which cannot be exported."""
    whole = Tapped(module, names, outputs, taps)
    length = min(9, longest)
    example = tuple(torch.ones(2, length, dtype=torch.int64) for _ in names)
    sizes = {
        0: torch.export.Dim("sequences", min=1, max=2**20),
        1: torch.export.Dim("length", min=1, max=max(longest, 2)),
    }
    named = [*outputs, *(TAP + path for path in taps)]
    with _quiet(), emitting(module), torch.no_grad():
        try:
            program = torch.onnx.export(
                whole, example, None, input_names=list(names), output_names=named, dynamo=True, opset_version=OPSET,
                dynamic_shapes=(tuple(sizes for _ in names),), verbose=False, external_data=False,
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            raise RefusalError(f"export: {_cause(error)}") from error
    assert program is not None, "dynamo=True gives a program"
    _rename(program.model)
    return program.model


def _cause(error: BaseException) -> str:
    """The innermost reason, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter narrates; what is wrong is raised. Alone, since what is put back is the process's."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx", "torch._dynamo")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    with LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def _rename(model: onnx_ir.Model) -> None:
    """Inner values by number: one may bear the name of an output. What the exporter noted of this machine's files goes."""
    for noted in (
        model,
        model.graph,
        *model.graph.all_nodes(),
        *model.graph.inputs,
        *model.graph.initializers.values(),
    ):
        noted.metadata_props.clear()
    kept = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    number = 0
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in kept:
                value.name, number = f"v{number}", number + 1
