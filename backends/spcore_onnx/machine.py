"""What this machine gives ONNX Runtime: cores that may be used, GPUs that are there, which distribution is installed."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path

PACKAGES = ("onnxruntime", "onnxruntime-gpu")
CLASH = (
    "onnxruntime and onnxruntime-gpu are both installed, in one folder: the one installed last is the one that runs. "
    "Uninstall both, then install one: pip install 'slimpajama[onnx]' or 'slimpajama[onnx-gpu]'"
)


def cores(root: Path = Path("/")) -> int:
    """Threads worth starting: cores that the scheduler gives this process, no more than its container's share of time (rounded up),
    nor than OMP_NUM_THREADS where that is set. root: of the file system that tells of containers."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [mine, *_shares(root)]
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        limits.append(int(asked))
    return max(1, min(limits))


def _shares(root: Path) -> list[int]:
    """Cores' worth of time of this process's control groups, v2 and v1."""
    found: list[int] = []
    for group in _groups(root):
        text = _read(group / "cpu.max").split()
        quota, period = (
            text if len(text) == 2 else (_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))
        )
        if quota.isdecimal() and period.isdecimal() and int(period):
            found.append(max(1, -(-int(quota) // int(period))))
    return found


def _groups(root: Path) -> list[Path]:
    """Folders of this process's control groups and of those above them."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        own = mount / path.lstrip("/")
        found += [own, *(p for p in own.parents if p.is_relative_to(mount))]
    return found or [root / "sys/fs/cgroup"]


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


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
        "onnx runtime threads": str(cores()),
    }
    return {**told, "onnx runtime problem": CLASH} if len(found) > 1 else told
