"""The page on embedding: its code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embed.tools import ROOT, program
from torch_backend import tiny_bert

PAGE = ROOT / "docs" / "embedding.md"


def pieces() -> list[str]:
    """The page's code, in order."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def written(tiny: str, folder: Path) -> str:
    """One program of all pieces, on small models."""
    names = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    classifier = tiny_bert.write(folder / "classifier", **names)
    text = "\n".join(pieces())
    return text.replace("bert-base-uncased", tiny).replace("somebody/classifier", str(classifier))


def test_the_page_has_them() -> None:
    assert len(pieces()) == 5
    assert all("assert" in piece for piece in pieces())


@pytest.mark.parametrize("children", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_they_run(children: bool, tiny: str, tmp_path: Path) -> None:
    text = written(tiny, tmp_path)
    if not children:  # a second of everything else, where ten are spent on two processes
        plain = text.replace('{"strategy": "ddp", "launch": {"use": "local", "processes": 2}}', "{}")
        assert plain != text
        text = plain.replace('    assert "Traceback" in error.__cause__.traceback', "    # ")
    assert program(["-c", text], cwd=tmp_path) == ""
