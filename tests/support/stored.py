"""What a safetensors file holds, to be compared with another's."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open


def content(file: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """A safetensors file's header and tensors; the order of the header's entries is the library's whim."""
    with safe_open(file, framework="np") as opened:
        return opened.metadata(), {name: opened.get_tensor(name).tobytes() for name in opened.keys()}  # noqa: SIM118
