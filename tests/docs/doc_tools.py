"""The documentation as data: files, fenced blocks, links."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"
PAGES = [README, ROOT / "README.zh.md", ROOT / "CONTRIBUTING.md", *DOCS]


def blocks(page: Path, language: str | None = None) -> list[str]:
    """Contents of a page's fenced blocks, of one language or of all."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return [content for name, content in found if language in (None, name)]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```\w*\n.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def links(page: Path) -> list[str]:
    """Targets of a page's links."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def documented() -> str:
    """All there is to read: README and docs/."""
    return "\n".join(page.read_text(encoding="utf-8") for page in [README, *DOCS])
