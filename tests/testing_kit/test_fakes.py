"""The fakes pass their own suites, are what they say, and work together in whole runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spcore.artifact import open_artifact
from spcore.components import KINDS, Registry
from spcore.errors import RefusalError, SourceError
from spcore.inference import evaluate_rows, predict_rows
from spcore.interfaces.dataset import Row
from spcore.interfaces.runtime import Decodes, Embeds, Forwards, Generates
from spcore.interfaces.task import Limits
from spcore.recipe import load_recipe
from spcore.rows import open_rows
from spcore.running import execute
from spcore.session import assemble
from spcore.testing import Skipped, check_decodes, check_plugin, fakes
from spcore.testing import plugin as fake_plugin


@pytest.fixture
def registry() -> Registry:
    made = Registry(entry_points=False)
    made.register(fake_plugin, name="fakes")
    return made


def test_importing_the_kit_imports_nothing_heavy() -> None:
    code = "import sys, spcore.testing, spcore.testing.plugin, spcore.testing.fakes\nassert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fakes_pass_every_suite(registry: Registry) -> None:
    report = check_plugin(registry, "fakes", options={"model/fake": {"source": "fake:tiny", "pretrained": True}})
    assert report.findings == [], str(report)
    assert {item.check for item in report.skipped} == {"task.packs"}
    assert all("it refuses packs" in item.why for item in report.skipped)


def test_the_suites_run_on_the_fakes_are_all_there_are(registry: Registry) -> None:
    from spcore.testing import all_checks

    options = {"model/fake": {"source": "fake:tiny"}, "dataset/fake": {"style": "stream"}}
    report = check_plugin(registry, "fakes", options=options)
    ran = {check for _, check in report.ran}
    assert ran | {item.check for item in report.skipped} == set(all_checks())


def test_there_is_a_fake_of_every_kind_that_has_a_contract(registry: Registry) -> None:
    assert {component.kind for _, component in registry.components()} == set(KINDS) - {"command"}


def test_without_a_source_a_model_is_not_checked_and_it_is_said(registry: Registry) -> None:
    report = check_plugin(registry, "fakes")
    assert report.findings == []
    why = "it needs a source: options={'model/fake': {'source': ...}}"
    assert [item for item in report.skipped if item.component == "model/fake"] == [
        Skipped("fakes", "model/fake", "model.opens and 11 more", why)
    ]


@pytest.mark.parametrize("name", sorted(fakes.__all__))
def test_every_fake_that_is_named_is_there(name: str) -> None:
    assert getattr(fakes, name) is not None


def test_ids_of_words_are_stable() -> None:
    processor = fakes.FakeProcessor()
    assert processor.encode("never dull w17").arrays["input_ids"].tolist() == [1, 16, 11, 17, 2]
    assert processor.decode([1, 44, 17, 2]) == "w44 w17"
    assert processor.decode([1, 17], skip_special=False) == "[cls] w17"
    cut = processor.encode("a b c d e", "f g", max_length=7)
    assert (len(cut.arrays["input_ids"]), cut.truncated) == (7, 3)
    assert cut.arrays["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_the_language_model_saves_and_opens(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no config\.json there"):
        fakes.FakeModel().open(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(SourceError, match="model_type 'bert', this opens 'fake'"):
        fakes.FakeModel().open(str(tmp_path))


def test_a_causal_model_sees_no_later_token() -> None:
    import torch

    from spcore.tensors.materialise import materialise
    from spcore.testing.fakes.language import FakeConfig

    model = fakes.FakeLanguageModel(FakeConfig(causal=True))
    head = fakes.FakeNextWord().bind(model.processor, model.config, {}, Limits()).head
    module = model.build(head)
    materialise(module, model, head, seed=0)
    one, other = (module(input_ids=torch.tensor([[8, 9, 10, last]]))["logits"] for last in (11, 12))
    assert torch.equal(one[:, :3], other[:, :3])
    assert not torch.equal(one[:, 3], other[:, 3])


def recipe(output: Path, **more: object) -> dict[str, object]:
    return {
        "model": {"use": "fake"}, "task": "fake-classification", "data": {"use": "fake", "rows": 20}, "strategy": "fake",
        "precision": "fake", "optimizer": "fake", "schedule": "fake", "launch": "fake", "loggers": ["fake"],
        "train": {"epochs": 2, "global_batch_size": 8, "save_every": 2}, "output": str(output),
        "eval": {"data": {"use": "fake", "rows": 10, "split": "validation"}}, **more,
    }  # fmt: skip


def test_a_run_of_fakes_trains_saves_opens_and_predicts(tmp_path: Path, registry: Registry) -> None:
    told: list[str] = []
    out = tmp_path / "run"
    result = execute(
        load_recipe(recipe(out), registry=registry), registry, on_event=lambda event: told.append(event.name)
    )
    assert result.steps == 6
    assert told[0] == "run_started"
    assert told.count("step") == 6
    artifact = open_artifact(out, registry)
    task, bound = artifact.task(registry)
    runner = registry.create("runtime", "fake").load(artifact, bound, "cpu")
    rows: list[Row] = [{"text": "w8 w9"}, {"text": "w9"}, {"text": "w8 w9"}]
    answers = predict_rows(runner, bound, rows)
    assert answers[0] == answers[2] != answers[1]
    assert set(answers[0]) == {"label", "score"}
    dataset = registry.create("dataset", "fake", registry.options_model("dataset", "fake")(rows=10))  # type: ignore[misc]
    source = open_rows(dataset, task.roles, columns={}, split="validation", limit=None)
    metrics, rows_out, _ = evaluate_rows(runner, bound, source)
    assert 0 <= metrics["accuracy"] <= 1
    assert len(rows_out) == 5


@pytest.mark.parametrize(
    "task", ["fake-two-terms", "fake-masked-words", "fake-contrast", "fake-preference", "fake-next-word"]
)
def test_every_fake_task_runs(task: str, registry: Registry, tmp_path: Path) -> None:
    result = execute(load_recipe(recipe(tmp_path / "run", task=task), registry=registry), registry)
    assert result.steps == 6
    assert result.metrics


def test_the_fake_strategy_refuses_what_it_cannot(registry: Registry, tmp_path: Path) -> None:
    made = load_recipe(recipe(tmp_path, task="fake-next-word", data={"use": "fake", "pack": 64}), registry=registry)
    with pytest.raises(RefusalError, match=r"data\.pack: the fake engine does not honour packs; leave it out"):
        assemble(made, registry)
    with pytest.raises(RefusalError, match="2 processes, it runs in one"):
        fakes.FakeStrategy().layout(2)


def test_the_runner_has_the_abilities_it_names() -> None:
    runner = fakes.FakeRunner(fakes.FakeLanguageModel(), None)
    assert all(isinstance(runner, ability) for ability in (Forwards, Embeds, Generates, Decodes))


def test_the_decoder_refuses_mistakes() -> None:
    decoder = fakes.FakeDecoder(slots=2, length=3)
    row = {"input_ids": np.array([8, 9])}
    decoder.prefill([row], [0])
    assert decoder.history(0) == (8, 9)
    with pytest.raises(AssertionError, match="a slot twice"):
        decoder.decode([8, 9], [0, 0])
    with pytest.raises(AssertionError, match="4 tokens, it has 3 positions"):
        decoder.prefill([row], [0])
    with pytest.raises(AssertionError, match="no such slot"):
        decoder.free([2])
    with pytest.raises(KeyError):
        decoder.decode([8], [1])
    with pytest.raises(AssertionError, match="an empty chunk"):
        decoder.prefill([{"input_ids": np.array([], np.int64)}], [1])
    with pytest.raises(AssertionError, match="no such token"):
        decoder.prefill([{"input_ids": np.array([64])}], [1])
    assert decoder.decode([], []).shape == (0, 64)


def test_a_decoder_behind_an_encoder_passes_the_suite() -> None:
    report = check_decodes(fakes.FakeDecoder(encoder_length=16))
    assert report.findings == [], str(report)
    assert report.skipped == []
