from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copied(folder: Path) -> None:
    """Lay docs/ into a folder. A copy: what a recipe there runs is written beside it."""
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("runs", "__pycache__"))
