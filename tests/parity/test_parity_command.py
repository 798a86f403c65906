"""The command: what it prints, how it ends, and what it refuses before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import spcore.parity
from exact.processes import registry_of
from exact.recipes import fake
from spcore.cli.app import app
from spcore.comparing import tensors
from spcore.components import default_registry
from spcore.errors import SlimPajamaError, UserError
from spcore.laying import parse_layout, strategy_for
from spcore.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes" / "parity"
GPT2 = str(RECIPES / "gpt2.yaml")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["parity", *arguments])


def test_processes_of_their_own() -> None:
    """As a person runs it, the slowest way there is."""
    found = invoke(GPT2, "--layout", "dp=2", "--steps", "2", "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert (told["same"], told["steps"], told["layouts"][0]["layout"]) == (True, 2, "dp=2")
    assert told["layouts"][0]["losses"]["difference"] <= told["tolerances"]["losses"]["value"] == 5e-5
    assert "float32" in told["tolerances"]["gradient"]["reason"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--layout: not given; give one or more, for example --layout dp=2"),
        (["--layout", "dp"], "--layout 'dp': found 'dp', expected: AXIS=SIZE, for example tp=2,pp=2"),
        (["--layout", "dp=0"], "--layout 'dp=0': found 'dp=0', expected: AXIS=SIZE, for example tp=2,pp=2"),
        (["--layout", "dp=2,dp=3"], "--layout 'dp=2,dp=3': dp is there twice; give it once"),
        (["--layout", "ddp=2"], "--layout ddp=2: unknown axis 'ddp'; did you mean 'dp'? known: dp (data parallel)"),
        (["--layout", "ep=2"], "--layout ep=2: strategy.expert_parallel 2: the model has no experts; leave it out"),
        (["--layout", "dp=2", "--strategy", "single"], "--layout dp=2: strategy 'single' does not lay processes out so"),
        (["--layout", "dp=2", "--strategy", "dpp"], "--layout dp=2: unknown strategy 'dpp'; did you mean 'ddp'?"),
        (["--layout", "dp=2", "--seeds", "4"], "--seeds 4: runs with dropout are compared over two seeds or more; give --dropout"),
        (["--layout", "dp=2", "launch=env"], "launch 'env': processes are started here for each layout, and it starts none"),
        (
            ["--layout", "dp=2", "--layout", "dp=20"],
            "--layout dp=20: train.global_batch_size 16: 20 processes share a step, some would have nothing to do",
        ),
    ],
)  # fmt: skip
def test_refusals_come_first(words: list[str], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spcore.parity, "_measure", None)  # nothing may start
    found = invoke(GPT2, *words)
    assert isinstance(found.exception, UserError), found.output
    assert str(found.exception).startswith(line)
    assert found.exception.exit_code == 2


@pytest.mark.parametrize(
    ("family", "layout", "line"),
    [
        ("t5", "pp=2", "--layout pp=2: strategy.pipeline_parallel 2: family 't5' has an encoder and a decoder"),
        (
            "bert",
            "tp=3",
            "--layout tp=3: strategy.tensor_parallel 3: the model's 4 attention heads do not divide by it",
        ),
        (
            "llama",
            "pp=8",
            "--layout pp=8: strategy.pipeline_parallel 8: that many processes, and the model has 4 layers",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused_first(
    family: str, layout: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spcore.parity, "_measure", None)
    found = invoke(str(RECIPES / f"{family}.yaml"), "--layout", "dp=2", "--layout", layout)
    assert isinstance(found.exception, UserError), found.output
    assert str(found.exception).startswith(line)


def test_masks_are_refused_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spcore.parity, "_measure", None)
    tree = yaml.safe_load(Path(GPT2).read_text())
    reviews = {"source": "builtin/reviews", "weight": 1.0}
    tree |= {"data": {"sources": {"one": reviews, "two": reviews}, "max_length": 32}, "eval": {}}
    with pytest.raises(SlimPajamaError, match=r"--dropout 0.1: rows of streams and mixtures come as they are read"):
        spcore.parity.parity(tree, ["dp=2"], default_registry(), dropout=0.1)
    with pytest.raises(SlimPajamaError, match=r"--dropout 0: nothing is drawn; give a probability above 0"):
        spcore.parity.parity(GPT2, ["dp=2"], default_registry(), dropout=0.0)
    with pytest.raises(SlimPajamaError, match=r"--dropout 0.1: model 'fake' has no option dropout"):
        spcore.parity.parity(fake("fake-two-terms"), ["dp=2"], registry_of(), dropout=0.1)


def test_sizes_of_one_are_left_out() -> None:
    assert parse_layout("tp=2, pp=1") == {"tp": 2}


def test_what_lays_out() -> None:
    registry = default_registry()
    recipe = load_recipe(GPT2, registry=registry)
    assert strategy_for({}, None, recipe, registry)["use"] == "single"
    assert strategy_for({"dp": 2}, None, recipe, registry) == {"use": "ddp"}
    own = load_recipe(GPT2, ["strategy={use: ddp, threads: 1}"], registry=registry)
    assert strategy_for({"dp": 2}, None, own, registry).items() >= {"use": "ddp", "threads": 1}.items()
    assert strategy_for({}, None, own, registry) == {"use": "single"}, "options of one strategy are not another's"


def test_differences_of_tensors(tmp_path: Path) -> None:
    import torch

    from spcore.tensors.files import save_safetensors

    def kept(name: str, **found: list[float]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        save_safetensors([(n, torch.tensor(v)) for n, v in found.items()], folder)
        return folder

    one = kept("one", a=[100.0, 1.0], small=[1e-7], zero=[0.0])
    assert tensors(one, kept("same", a=[100.0, 1.0], small=[1e-7], zero=[0.0])).size == 0
    other = tensors(one, kept("other", a=[100.0, 1.5], small=[2e-7], zero=[0.0]))
    assert (other.size, other.at) == (pytest.approx(5e-3), "a"), "a tenth of a millionth counts against 0.1"
    assert tensors(one, kept("less", a=[100.0, 1.0], small=[1e-7]), absent=0.0).size == 0
    assert tensors(kept("fewer", a=[100.0, 1.0]), one, absent=0.0).size == pytest.approx(1e-6)
    assert tensors(tmp_path / "fewer", one).size == float("inf")
    assert tensors(kept("nan", a=[float("nan"), 1.0], small=[1e-7], zero=[0.0]), one).size == float("inf")
