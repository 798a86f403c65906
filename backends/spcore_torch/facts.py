"""What `slimpajama doctor` shows of PyTorch."""

from __future__ import annotations

import torch

from spcore_torch import kernels


def facts() -> dict[str, str]:
    """Devices, threads, the fp32 kernel with the figures it was chosen by."""
    name, figures = kernels.fp32_kernel()
    shown = ", ".join(f"{n}: error {error:.1e}, {seconds * 1e3:.2f} ms" for n, (error, seconds) in figures.items())
    devices = (
        [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "torch devices": ", ".join(devices) or "cpu only",
        "torch threads": str(torch.get_num_threads()),
        "fp32 matrix products": f"{name} ({shown})",
        "16-bit products": f"bf16 {_products(torch.bfloat16)}, fp16 {_products(torch.float16)}",
    }


def _products(dtype: torch.dtype) -> str:
    return "native" if kernels.has_units(dtype) else "emulated by float32's"
