"""Runs on mixtures: figures of each source, passes in the report, going on to the bit, refusals before anything starts."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

import spcore.testing.plugin
from spcore import api
from spcore.components import Registry
from spcore.errors import OutputError, RefusalError, UserError
from spcore.interfaces.logger import Evaluated, Event, RunStarted, Step, Warned
from spcore.recipe import data_part


@pytest.fixture(scope="module")
def registry() -> Registry:
    made = Registry()
    made.register(spcore.testing.plugin, name="fakes")
    return made


def tree(folder: Path, **train: Any) -> dict[str, Any]:
    """A file of 30 texts, two of them blank, and a made-up stream or set of 24."""
    file = folder / "own.jsonl"
    lines = [{"content": "" if n % 15 == 7 else f"w{n} w{n + 9} w8", "note": "its own"} for n in range(30)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"steps": 12, "global_batch_size": 8, "seed": 3, "save_every": 5, "keep": 9, **train}
    return {
        "model": {"use": "fake", "hidden": 16}, "task": "fake-masked-words", "optimizer": {"use": "adamw", "lr": 1e-2},
        "data": {"sources": {
            "own": {"source": str(file), "weight": 1, "columns": {"text": "content"}},
            "made-up": {"use": "fake", "rows": 24, "weight": 3},
        }},
        "eval": {"data": {"sources": {"own": {"source": str(file), "limit": 6}, "made-up": {"use": "fake", "split": "validation"}}}},
        "train": settings, "device": "cpu", "loggers": ["jsonl"], "output": str(folder / "run"),
    }  # fmt: skip


def run(recipe: dict[str, Any], registry: Registry) -> tuple[list[Event], dict[str, Any]]:
    events: list[Event] = []
    result = api.run(recipe, registry=registry, on_event=events.append)
    report: dict[str, Any] = json.loads((Path(result.output) / "report.json").read_text())
    return events, report


@pytest.mark.parametrize("style", ["map", "stream"])
def test_shares_passes_and_figures_of_each_source(style: str, tmp_path: Path, registry: Registry) -> None:
    recipe = tree(tmp_path)
    recipe["data"]["sources"]["made-up"]["style"] = style
    events, report = run(recipe, registry)
    own, made = report["train"]["sources"]["own"], report["train"]["sources"]["made-up"]
    assert (own["share"], made["share"]) == (0.25, 0.75)
    assert own["features_drawn"] + made["features_drawn"] == 12 * 8
    assert made["features_drawn"] == pytest.approx(72, abs=3)
    assert own["passes"] == own["features_drawn"] / 28
    assert made["passes"] == (made["features_drawn"] / 24 if style == "map" else made["features_drawn"] // 24)
    assert own["dropped"], "the blank ones"
    figures = next(e.metrics for e in events if isinstance(e, Evaluated))
    assert {"loss", "loss/own", "loss/made-up"} <= set(figures)
    assert (
        min(figures["loss/own"], figures["loss/made-up"])
        < figures["loss"]
        < max(figures["loss/own"], figures["loss/made-up"])
    )
    assert set(report["eval"]["sources"]) == {"own", "made-up"}
    assert report["eval"]["metrics"] == figures
    columns = next(e.facts["columns"] for e in events if isinstance(e, RunStarted))
    assert columns == "own.text=content, made-up.text=text"
    told = [e.message for e in events if isinstance(e, Warned)]
    assert sum(line.startswith("own: 2 of 30 rows dropped") for line in told) == 1, told


@pytest.mark.parametrize("style", ["map", "stream"])
@pytest.mark.parametrize("pack", [None, 16])
def test_a_run_goes_on_to_the_bit(style: str, pack: int | None, tmp_path: Path, registry: Registry) -> None:
    recipe = tree(tmp_path)
    recipe["data"]["sources"]["made-up"]["style"] = style
    recipe["data"]["pack"] = pack
    whole, report = run(recipe, registry)
    again = tmp_path / "again"
    (again / "checkpoints").mkdir(parents=True)
    name = "step-00000005"
    shutil.copytree(tmp_path / "run" / "checkpoints" / name, again / "checkpoints" / name)
    for file in ("recipe.yaml", "run.json"):
        shutil.copy(tmp_path / "run" / file, again / file)
    events, after = run({**recipe, "output": str(again)}, registry)
    losses = [[(e.step, e.loss, e.tokens) for e in told if isinstance(e, Step)] for told in (whole, events)]
    assert losses[1] == losses[0][5:]
    assert after["train"] == report["train"]


def test_another_weight_is_another_run(tmp_path: Path, registry: Registry) -> None:
    recipe = tree(tmp_path)
    run(recipe, registry)
    (tmp_path / "run" / "slimpajama.json").unlink()
    recipe["data"]["sources"]["own"]["weight"] = 2
    with pytest.raises(
        OutputError, match=r"another recipe is there: data\.sources\.own\.weight is 1.0 there, 2.0 here"
    ):
        api.run(recipe, registry=registry)


def test_a_source_may_have_moved(tmp_path: Path, registry: Registry) -> None:
    recipe = tree(tmp_path)
    run(recipe, registry)
    (tmp_path / "run" / "slimpajama.json").unlink()
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(tmp_path / "own.jsonl", tmp_path / "moved" / "own.jsonl")
    recipe["data"]["sources"]["own"]["source"] = str(moved)
    events, _ = run(recipe, registry)
    assert [e.start_step for e in events if isinstance(e, RunStarted)] == [10]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": {"epochs": 2}}, "train.epochs: a mixture has no end; give train.steps"),
        ({"data.sources.made-up.style": "stream", "data.weights_of": "tokens"}, "data.weights_of: the tokens of a stream are not known before: data.sources.made-up is one; give features"),
        ({"data.shuffle_buffer": 10}, "data.shuffle_buffer: only streams have one; data with a length is shuffled whole: leave it out"),
        ({"eval.data.sources.made-up.style": "stream"}, "eval.data.sources.made-up: a streamed data set has no length; evaluate on a file"),
        ({"data.sources.own.columns": {"text": "contents"}}, "data.sources.own.columns.text: unknown column 'contents'; did you mean 'content'?"),
        ({"data.sources.own.source": "no-such.jsonl"}, "data.sources.own.source: "),
        ({"eval.data.sources.own.split": "train[:400%]"}, "eval.data.sources.own.split 'train[:400%]': bounds are row numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before(
    changes: dict[str, Any], says: str, tmp_path: Path, registry: Registry
) -> None:
    recipe = {**tree(tmp_path), "train": changes.pop("train", {"steps": 2})}
    with pytest.raises(UserError) as caught:
        api.run(recipe, changes, registry=registry)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_source_of_which_nothing_is_usable(tmp_path: Path, registry: Registry) -> None:
    recipe = tree(tmp_path)
    blank = tmp_path / "blank.jsonl"
    blank.write_text('{"content": "", "note": ""}\n' * 3)
    recipe["data"]["sources"]["own"]["source"] = str(blank)
    with pytest.raises(UserError, match=r"data\.sources\.own: no usable row: 3 of 3 rows dropped"):
        api.run(recipe, registry=registry)


def test_a_stream_alone_tells_what_it_dropped(tmp_path: Path, registry: Registry) -> None:
    recipe = tree(tmp_path, steps=8, save_every=3)
    recipe["data"] = {"use": "fake", "rows": 24, "style": "stream", "shuffle_buffer": 6, "max_length": 4}
    recipe["eval"] = {}
    events, report = run(recipe, registry)
    assert (report["train"]["rows_read"], report["train"]["passes"]) == (72 - 8 + 6, 2)
    told = [e.message for e in events if isinstance(e, Warned)]
    assert any("texts were longer than data.max_length" in line for line in told), told


def test_a_stream_is_no_data_to_be_evaluated_on(registry: Registry) -> None:
    task = registry.create("task", "fake-masked-words", None)
    with pytest.raises(RefusalError, match="data: a streamed data set has no length; use a file"):
        api.open_part(data_part({"use": "fake", "style": "stream"}, registry), task, registry, {})


def test_what_to_do_names_the_source(tmp_path: Path, registry: Registry) -> None:
    recipe = tree(tmp_path)
    del recipe["data"]["sources"]["own"]["columns"]
    with pytest.raises(UserError, match=r"has content, note\. Say which: data\.sources\.own\.columns\.text=COLUMN"):
        api.run(recipe, registry=registry)


def test_the_best_step_by_the_figure_of_one_source(tmp_path: Path, registry: Registry) -> None:
    recipe = tree(tmp_path)
    recipe["eval"] |= {"every": 3, "metric": "loss/own", "keep_best": True}
    events, _ = run(recipe, registry)
    told = [e for e in events if isinstance(e, Evaluated)]
    losses = [e.metrics["loss/own"] for e in told]
    best = [n for n, e in enumerate(told) if e.best]
    assert best == [n for n, loss in enumerate(losses) if loss < min(losses[:n], default=math.inf)], "less is better"
    with pytest.raises(UserError, match=r"eval\.metric: unknown metric 'loss/owm'; did you mean 'loss/own'\?"):
        api.run(recipe, {"eval.metric": "loss/owm", "output": str(tmp_path / "other")}, registry=registry)
