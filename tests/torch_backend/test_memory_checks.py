"""What is refused of recomputing and compiling, before any process starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spcore.interfaces.model import Anatomy, Head
from spcore.interfaces.strategy import Layout
from spcore.testing.fakes.language import FakeLanguageModel
from spcore_torch import compiling
from spcore_torch.options import ParallelOptions, SingleOptions
from spcore_torch.parallel import Parallel
from spcore_torch.single import Single
from tensors.tensor_fakes import Weighted, plan_of


class Unknown(FakeLanguageModel):
    """A family whose layers are not known."""

    def anatomy(self, head: Head) -> Anatomy:
        found = super().anatomy(head)
        return Anatomy(found.base, found.embed, None, found.final, found.head, found.causal)


def refused(options: dict[str, Any], **changes: Any) -> list[str]:
    return [str(refusal) for refusal in Single(SingleOptions(**options)).check(plan_of(Weighted(), **changes))]


def test_honoured() -> None:
    assert refused({"compile": True, "activation_checkpointing": "full"}) == []
    assert refused({"activation_checkpointing": "selective"}, pack=64) == []


@pytest.mark.parametrize(
    ("options", "changes", "line"),
    [
        (
            {"activation_checkpointing": "full"}, {"model": Unknown()},
            "strategy.activation_checkpointing full: where the layers of family 'fake' lie is not known; leave it out",
        ),
        ({"compile": True}, {"model": Unknown()}, "strategy.compile true: where the layers of family 'fake' lie is not known; leave it out"),
        (
            {"compile": True, "activation_checkpointing": "selective"}, {},
            "strategy.compile true: inside of compiled layers no operation's results can be chosen to be kept; use strategy.activation_checkpointing=full",
        ),
        (
            {"compile": True, "flatten": "always"}, {},
            "strategy.compile true: texts of one row are laid out anew in each microbatch, which no compiled layer can follow (strategy.flatten always); leave it out",
        ),
        (
            {"compile": True}, {"pack": 64},
            "strategy.compile true: texts of one row are laid out anew in each microbatch, which no compiled layer can follow (data.pack); leave it out",
        ),
    ],
)  # fmt: skip
def test_refused(options: dict[str, Any], changes: dict[str, Any], line: str) -> None:
    assert refused(options, **changes) == [line]


@pytest.mark.parametrize("axis", ["tensor", "context"])
def test_layers_that_are_divided(axis: str) -> None:
    options = ParallelOptions(compile=True, **{f"{axis}_parallel": 2})
    layout = Layout({"data": 1, "pipeline": 1, "context": 1, "tensor": 1, axis: 2})
    found = [str(refusal) for refusal in Parallel(options).check(plan_of(Weighted(), layout=layout))]
    line = "strategy.compile true: layers that are divided speak with other processes amid their work, which is not compiled; "
    assert line + "leave it out, or use data or pipeline parallelism" in found


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert refused({"compile": True}) == [
        "strategy.compile true: there is no C++ compiler 'no-such-compiler' (environment variable CXX names another); leave it out"
    ]
    monkeypatch.delenv("CXX")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert refused({"compile": True}) == [
        "strategy.compile true: Python's headers (Python.h) are not installed; leave it out"
    ]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert compiling.missing("cuda:0") == "triton is not installed"
