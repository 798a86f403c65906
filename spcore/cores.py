"""Cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """Cores that the scheduler gives this process, no more than its container's share of time (rounded up). root: of the file system
    that tells of containers."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([mine, *_shares(root)]))


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
