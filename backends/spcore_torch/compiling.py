"""Layers compiled by `torch.compile`, each by itself, for training steps; evaluations and generation run them as they are.

Embeddings, head and loss are not compiled, nor what engines put round layers (gathering of shards, recomputing, the passing of states), so
nothing of those depends on a compiler. What cannot be compiled still runs, as Python has it, and that is told.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spcore.interfaces.strategy import Plan, Refusal
from spcore_torch.options import SingleOptions

log = logging.getLogger("slimpajama.torch")
BACKEND, SETTINGS = "inductor", {"config_patches": {"compile_threads": 1}}
"""torch's compiler, in this process: a pool of its own forks, which waits for an engine that computes."""
SHAPES = 8
"""Compiled forms of a layer: its first shapes, sizes that vary, one row alone, each in two formats."""


def missing(device: str) -> str:
    """What the compiler lacks on this machine, "" for nothing."""
    if device.startswith("cuda"):
        return "" if importlib.util.find_spec("triton") is not None else "triton is not installed"
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        return f"there is no C++ compiler {name!r} (environment variable CXX names another)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's headers (Python.h) are not installed"
    return ""


def refusals(plan: Plan, options: SingleOptions, device: str) -> list[Refusal]:
    """Whether the option `compile` can be honoured."""
    if not options.compile:
        return []
    subject, hint, found = "strategy.compile true", "leave it out", []
    lacks = missing(device)
    if lacks:
        found.append(Refusal(subject, lacks, hint))
    if plan.model.anatomy(plan.head).layers is None:
        found.append(Refusal(subject, f"where the layers of family {plan.model.family!r} lie is not known", hint))
    if options.activation_checkpointing == "selective":
        why = "inside of compiled layers no operation's results can be chosen to be kept"
        found.append(Refusal(subject, why, "use strategy.activation_checkpointing=full"))
    if plan.precision.fp8 is not None:
        why = "compiled layers multiply as torch does, which is not in 8 bits"
        found.append(Refusal(subject, why, "leave it out, or use precision=bf16"))
    if options.flatten == "always" or plan.pack is not None:
        what = "data.pack" if plan.pack is not None else "strategy.flatten always"
        why = "texts of one row are laid out anew in each microbatch, which no compiled layer can follow"
        found.append(Refusal(subject, f"{why} ({what})", hint))
    return found


class Compiler:
    """Of the layers of one engine. graphs: how many were compiled. speaks: whether this process tells what happens to all alike."""

    def __init__(self, layers: Sequence[nn.Module], *, speaks: bool) -> None:
        self.layers, self.speaks = layers, speaks
        self.graphs, self.limit = 0, SHAPES * len(layers)
        self._told: set[str] = set()
        for layer in layers:
            layer.forward = _Forward(self, layer.forward)

    def compiled(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """A layer's `forward`, which is compiled as it is called."""
        # Layers of one class share what is compiled, and so a limit.
        compiled: Callable[..., Any] = torch.compile(inner, backend=self._compile, recompile_limit=self.limit)
        return compiled

    def _compile(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """As torch calls a backend. Where the compiler fails, the graph's operations one by one."""
        from torch._dynamo import lookup_backend

        self.graphs += 1
        if self.graphs == self.limit:
            self.tell(f"layers were compiled {self.limit} times, for as many kinds of shapes; others run uncompiled")
        try:
            made: Callable[..., Any] = lookup_backend(BACKEND)(graph, inputs, **SETTINGS)
        except RuntimeError as error:
            self.tell(f"the compiler {BACKEND} failed, layers run uncompiled: {_first_line(error)}", alike=False)
            made = graph.forward
        return made

    def run(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a compiled layer, and tell of what could not be compiled in it."""
        from torch._dynamo.utils import counters

        before, graphs = Counter(counters["graph_break"]), self.graphs
        found = call(*args, **kwargs)
        if self.graphs > graphs or not self.graphs:
            for reason in Counter(counters["graph_break"]) - before:
                self.tell(f"a layer is compiled in several parts, with Python between them: {_first_line(reason)}")
            if not self.graphs:
                self.tell("nothing of the layers could be compiled; they run as they are")
        return found

    def failed(self, error: Exception) -> None:
        """Of a layer that could not even be read."""
        self.tell(f"a layer could not be compiled, it runs as it is: {_first_line(error)}", alike=False)

    def tell(self, what: str, *, alike: bool = True) -> None:
        """Once."""
        if what not in self._told and (self.speaks or not alike):
            log.warning("strategy.compile: %s", what)
        self._told.add(what)

    def close(self) -> None:
        """Take back what was given to the layers."""
        for layer in self.layers:
            given = layer.__dict__.get("forward")
            if isinstance(given, _Forward):
                layer.forward = given.inner
        if self.graphs and self.speaks:
            log.info("strategy.compile: %d graphs for %d layers", self.graphs, len(self.layers))


class _Forward:
    """Stands as a layer's `forward`."""

    def __init__(self, compiler: Compiler, inner: Callable[..., Any]) -> None:
        self.compiler, self.inner = compiler, inner
        self.compiled: Callable[..., Any] | None = compiler.compiled(inner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer's own."""
        from torch._dynamo.exc import TorchDynamoException

        if self.compiled is not None and torch.is_grad_enabled():
            try:
                return self.compiler.run(self.compiled, *args, **kwargs)
            except TorchDynamoException as error:
                self.compiler.failed(error)
                self.compiled = None
        return self.inner(*args, **kwargs)


def _first_line(what: object) -> str:
    return next((line.strip() for line in str(what).splitlines() if line.strip()), type(what).__name__)
