"""Evaluations by generating in a run of one process: the answers are transformers', training does not notice, nothing stays behind."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from exact.processes import measure, registry_of
from exact.recipes import fake, laid, seq2seq
from spcore.errors import RecipeError, RefusalError, RunError
from spcore.interfaces.logger import Evaluated, Event
from spcore.recipe import load_recipe
from spcore.running import execute
from spcore.session import assemble
from spcore_torch.single import Single
from spcore_transformers.model import TransformersLanguageModel


def run(
    tree: dict[str, Any], events: list[Event] | None = None, *, output: Path | None = None, **train: Any
) -> list[Evaluated]:
    """The evaluations of a run in this process."""
    registry, told = registry_of(), [] if events is None else events
    made = {**laid(tree, "single", 1, **train), "launch": "inline", "output": str(output) if output else None}
    execute(load_recipe(made, {}, registry=registry), registry, on_event=told.append)
    return [event for event in told if isinstance(event, Evaluated)]


def assembled(tree: dict[str, Any]) -> None:
    registry = registry_of()
    assemble(load_recipe(laid(tree, "single", 1), {}, registry=registry), registry)


@pytest.mark.parametrize("generate", [{}, {"beams": 3, "length_penalty": 0.6}])
@pytest.mark.parametrize(("kind", "auto"), [("t5", "AutoModelForSeq2SeqLM"), ("llama", "AutoModelForCausalLM")])
def test_answers_are_what_transformers_generates(
    kind: str, auto: str, generate: dict[str, Any], tmp_path: Path
) -> None:
    """Of the model that a run has saved, the last evaluation's answers, row by row; each alone, without padding."""
    tree = seq2seq(kind, tmp_path, **generate)
    tree["eval"]["data"]["split"] = "train[180:]"
    run(tree, output=tmp_path / "run", steps=60)
    saved = {"use": "transformers", "source": str(tmp_path / "run")}
    found = measure(
        laid({**tree, "model": saved}, "single", 1, steps=1)
    )  # whose answers are of what is opened, before a step
    model = getattr(transformers, auto).from_pretrained(tmp_path / "run").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()][180:]
    theirs = []
    for row in rows:
        text = row["given"] if kind == "t5" else f"w50 {row['given']} w51"
        ids = tokenizer(text, return_tensors="pt").input_ids
        settings = {"num_beams": generate.get("beams", 1), "length_penalty": generate.get("length_penalty", 1.0)}
        out = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=6, **settings)[0]
        theirs.append(tokenizer.decode(out[1:] if kind == "t5" else out[ids.shape[1] :], skip_special_tokens=True))
    assert [row["text"] for row in found["predictions"]] == theirs
    assert len(set(theirs)) > 5, "it says different things"


@pytest.mark.parametrize(("kind", "precision"), [("t5", "fp32"), ("llama", "bf16"), ("t5", "fp16")])
def test_training_does_not_notice(kind: str, precision: str, tmp_path: Path) -> None:
    """To the bit, dropout on: before each step but the first it has generated, drawing and by beams."""
    tree = {**seq2seq(kind, tmp_path, temperature=1.0), "precision": precision}
    tree["model"]["dropout"] = 0.1 if kind == "t5" else None
    wanted = measure(laid({**tree, "eval": {}}, "single", 1, steps=5))
    found = measure(laid({**tree, "eval": {**tree["eval"], "every": 1}}, "single", 1, steps=5))
    assert found["steps"] == wanted["steps"]


def test_caches_go_when_an_evaluation_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, lent = TransformersLanguageModel.decoder, list[weakref.ref[Any]]()

    def decoder(self: TransformersLanguageModel, *given: Any) -> Any:
        gc.collect()
        assert not any(ref() for ref in lent), "one before is still there"
        made = plain(self, *given)
        lent.append(weakref.ref(made))
        return made

    monkeypatch.setattr(TransformersLanguageModel, "decoder", decoder)
    tree = seq2seq("t5", tmp_path)
    assert len(run({**tree, "eval": {**tree["eval"], "every": 2}})) == 2
    gc.collect()
    assert len(lent) == 3, "one before the first step, to be refused there if at all"
    assert not any(ref() for ref in lent)


def test_the_best_is_kept_by_what_was_generated(tmp_path: Path) -> None:
    tree = seq2seq("llama", tmp_path)
    shown = {**tree["eval"], "every": 10, "keep_best": True, "metric": "chrf"}
    found = run({**tree, "eval": shown}, output=tmp_path / "run", steps=40, save_every=20)
    best = max(found, key=lambda event: event.metrics["chrf"])
    assert best.metrics["chrf"] > found[0].metrics["chrf"] > 0
    assert [event.step for event in found if event.best][-1] == best.step
    manifest = json.loads((tmp_path / "run" / "slimpajama.json").read_text())
    assert (manifest["steps"], manifest["metrics"]) == (best.step, best.metrics)


def test_several_sources_have_figures_each(tmp_path: Path) -> None:
    tree = seq2seq("t5", tmp_path)
    data = tree["eval"]["data"]
    source = {key: data[key] for key in ("use", "source", "columns")}
    tree["eval"] = {
        "data": {"sources": {"a": {**source, "split": "train[:5]"}, "b": {**source, "split": "train[5:12]"}}}
    }
    (done,) = run(tree)
    assert {"bleu", "bleu/a", "chrf/b", "loss/a", "unfinished/b"} <= done.metrics.keys()
    assert (done.metrics["rows"], done.metrics["rows/a"], done.metrics["rows/b"]) == (12, 5, 7)


def test_what_is_cut_is_counted_and_told(tmp_path: Path) -> None:
    tree = seq2seq("t5", tmp_path)
    tree["task"]["max_target_length"] = 4
    tree["data"]["max_length"] = 6
    tree["eval"]["data"]["split"] = "train[180:]"
    found = measure(laid(tree, "single", 1, steps=1))
    told = [line for line in found["warned"] if "tokens cut" in line]
    assert len(told) == 4, "of both data sets, texts and targets"
    assert sum("targets were longer than the task allows" in line for line in told) == 2
    assert sum("texts were longer than data.max_length" in line for line in told) == 2


def test_without_generating_there_is_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TransformersLanguageModel, "decoder", None)
    tree = seq2seq("t5", tmp_path)
    tree["eval"]["generate"] = 0
    (done,) = run({**tree, "eval": {**tree["eval"], "metric": "loss"}})
    assert set(done.metrics) == {"loss", "perplexity", "accuracy", "rows"}
    with pytest.raises(RecipeError, match=r"eval\.metric: unknown metric 'bleu'; known: accuracy, loss, perplexity"):
        assembled({**tree, "eval": {**tree["eval"], "metric": "bleu"}})


def test_what_cannot_generate_is_refused_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = seq2seq("t5", tmp_path)
    with pytest.raises(RefusalError, match=r"eval\.generate: task 'fake-next-word' is not evaluated by generating"):
        assembled({**fake("fake-next-word"), "eval": {"data": {"use": "fake"}, "generate": 5}})
    monkeypatch.setattr(Single, "decodes", False)
    with pytest.raises(RefusalError, match=r"strategy 'single' does not generate: eval\.generate=0 evaluates the loss"):
        assembled(tree)
    assembled({**tree, "eval": {**tree["eval"], "generate": 0}})
    assembled({**tree, "eval": {}})
    monkeypatch.undo()
    monkeypatch.setattr("spcore.session.Steps", int)  # as what no model is
    with pytest.raises(RefusalError, match=r"family 't5' gives no text token by token"):
        assembled(tree)


def test_an_answer_without_room_is_refused_before_the_first_step() -> None:
    """The fake asks for four tokens behind the longest prompts that the model has positions for."""
    tree = fake("fake-prompted")
    tree["model"]["max_length"] = 8
    events: list[Event] = []
    with pytest.raises(RefusalError, match="the model has 8 positions"):
        run(tree, events)
    assert not [event for event in events if event.name == "step"]


def test_too_little_memory_says_what_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TransformersLanguageModel.decoder

    def decoder(self: TransformersLanguageModel, *given: Any) -> Any:
        made = plain(self, *given)
        monkeypatch.setattr(
            made, "decode", lambda ids, slots: torch.empty(2**60)
        )  # raises what torch's own allocator does
        return made

    monkeypatch.setattr(TransformersLanguageModel, "decoder", decoder)
    said = r"^cpu: not enough memory to generate for 5 rows of \d+ tokens\. Try a smaller eval\.batch_tokens$"
    with pytest.raises(RunError, match=said):
        run(seq2seq("t5", tmp_path))
