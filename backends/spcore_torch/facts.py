"""What `slimpajama doctor` shows of PyTorch."""

from __future__ import annotations

import torch

from spcore_torch import kernels


def facts() -> dict[str, str]:
    """Devices, threads, the fp32 kernels with the figures they were chosen by."""
    devices = (
        [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "torch devices": ", ".join(devices) or "cpu only",
        "torch threads": str(torch.get_num_threads()),
        "fp32 matrix products": _chosen(*kernels.fp32_kernel()),
        **{f"fp32 products of {rows} rows": _chosen(*kernels.row_kernel(rows)) for rows in kernels.FEW},
        "16-bit products": f"bf16 {_products(torch.bfloat16)}, fp16 {_products(torch.float16)}",
    }


def _chosen(name: str, figures: kernels.Figures) -> str:
    shown = ", ".join(f"{n}: error {error:.1e}, {seconds * 1e3:.2f} ms" for n, (error, seconds) in figures.items())
    return f"{name} ({shown})"


def _products(dtype: torch.dtype) -> str:
    return "native" if kernels.has_units(dtype) else "emulated by float32's"
