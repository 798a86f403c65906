"""What this machine gives ONNX Runtime: cores that may be used, GPUs that are there, which distribution is installed."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path

from spcore.cores import cores

PACKAGES = ("onnxruntime", "onnxruntime-gpu")
CLASH = (
    "onnxruntime and onnxruntime-gpu are both installed, in one folder: the one installed last is the one that runs. "
    "Uninstall both, then install one: pip install 'slimpajama[onnx]' or 'slimpajama[onnx-gpu]'"
)


def threads(root: Path = Path("/")) -> int:
    """Threads worth starting: cores that this process may use, no more than OMP_NUM_THREADS where that is set."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(root), int(asked)) if asked.isdecimal() and int(asked) else cores(root)


def gpus() -> int:
    """NVIDIA GPUs that this process may see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return 0
    there = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return min(there, len(visible.split(","))) if visible else there


def installed() -> dict[str, str]:
    """Distribution -> version of those of PACKAGES that are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def facts() -> Mapping[str, str]:
    """For `doctor`."""
    found = installed()
    if not found:
        return {"onnx runtime": "not installed"}
    import onnxruntime

    told = {
        "onnx runtime": ", ".join(f"{name} {version}" for name, version in found.items()),
        "onnx runtime providers": ", ".join(onnxruntime.get_available_providers()),
        "onnx runtime threads": str(threads()),
    }
    return {**told, "onnx runtime problem": CLASH} if len(found) > 1 else told
