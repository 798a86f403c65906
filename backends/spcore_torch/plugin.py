"""What this package offers."""

from __future__ import annotations

from collections.abc import Mapping

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Strategies `single`, `ddp`, `fsdp` and `parallel`, launchers `inline`, `local` and `env`, runtime `torch`."""
    return [
        Component(
            "strategy",
            "single",
            "spcore_torch.single:Single",
            "One process, one device",
            options="spcore_torch.options:SingleOptions",
            default=True,
        ),
        Component(
            "strategy",
            "ddp",
            "spcore_torch.ddp:DataParallel",
            "Data parallel: the whole model in each process, gradients summed",
            options="spcore_torch.options:SingleOptions",
        ),
        Component(
            "strategy",
            "fsdp",
            "spcore_torch.fsdp:FullySharded",
            "Fully sharded data parallel: parameters, gradients and optimizer state spread over the processes",
            options="spcore_torch.options:ShardedOptions",
        ),
        Component(
            "strategy",
            "parallel",
            "spcore_torch.parallel:Parallel",
            "The model itself shared: tensor, context and pipeline parallel, beside data parallel",
            options="spcore_torch.options:ParallelOptions",
        ),
        Component(
            "launcher",
            "inline",
            "spcore_torch.inline:Inline",
            "In the caller's own process",
            options="spcore_torch.options:InlineOptions",
            default=True,
        ),
        Component(
            "launcher",
            "local",
            "spcore_torch.local:Local",
            "Processes on this machine",
            options="spcore_torch.options:LocalOptions",
        ),
        Component(
            "launcher",
            "env",
            "spcore_torch.env:Env",
            "Started already: by torchrun, Slurm, Kubernetes",
            options="spcore_torch.options:EnvOptions",
        ),
        Component(
            "runtime",
            "torch",
            "spcore_torch.runtime:TorchRuntime",
            "PyTorch, eager",
            options="spcore_torch.options:RuntimeOptions",
        ),
    ]


@hookimpl
def spcore_facts() -> Mapping[str, str]:
    """Devices and the fp32 kernel that would be chosen."""
    from spcore_torch.facts import facts

    return facts()
