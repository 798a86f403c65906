"""A saved model of a task that answers by generating: evaluated as in training, asked by `predict`, from Python and the command line."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import transformers
from typer.testing import CliRunner

import slimpajama
from exact.recipes import seq2seq
from generation.test_prompts_engine import run
from objectives import language_tools
from spcore.cli.app import app
from spcore.errors import DataError, RefusalError
from spcore.inference import evaluate_rows, predict_rows
from spcore.testing.fakes import FakeLanguageModel, FakePrompted, FakeRunner
from spcore_tasks.answer_figures import answers
from spcore_tasks.options import Seq2SeqOptions

KINDS = {"t5": {"beams": 3}, "llama": {}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any], dict[str, float]]]:
    """Of each kind: the saved model, the evaluation data, the last evaluation's figures."""
    made = {}
    for kind, generate in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        tree = seq2seq(kind, folder, **generate)
        tree["eval"]["data"]["split"] = "train[170:]"
        (done,) = run(tree, output=folder / "run", steps=80)
        made[kind] = folder / "run", tree["eval"]["data"], done.metrics
    return made


@pytest.mark.parametrize("kind", list(KINDS))
def test_figures_are_those_of_the_last_evaluation_in_training(kind: str, saved: Any) -> None:
    folder, data, wanted = saved[kind]
    found = slimpajama.load_model(folder).evaluate(data)
    assert found.metrics == pytest.approx(wanted, rel=1e-5)
    assert wanted["chrf"] > 5
    texts, references = ([row[name] for row in found.predictions] for name in ("text", "reference"))
    assert answers(texts, [[one] for one in references], Seq2SeqOptions()).items() <= found.metrics.items()
    assert sum(row["finish"] == "length" for row in found.predictions) == found.metrics["unfinished"]


def test_settings_of_the_answers_can_be_others(saved: Any) -> None:
    folder, data, _ = saved["t5"]
    model = slimpajama.load_model(folder)
    found = model.evaluate(data, settings={"task.generate.max_new_tokens": 1, "data.split": "train[190:]"})
    assert found.metrics["unfinished"] > 0
    assert all(len(row["text"].split()) <= 1 for row in found.predictions)


@pytest.mark.parametrize("kind", list(KINDS))
def test_predict_is_generate_on_the_tasks_prompts(kind: str, saved: Any) -> None:
    model = slimpajama.load_model(saved[kind][0])
    texts = ["w1 w2 w3", "w9", "w7 w8 w9 w10 w11 w12"]
    prompts = [text if kind == "t5" else f"w50 {text} w51" for text in texts]
    written = model.generate(prompts, max_new_tokens=8, temperature=0, **{"beams": 1, **KINDS[kind]})
    wanted = [{"text": one["text"], "finish": one["finish"]} for one in written]
    assert model.predict(texts) == model.predict(source=texts) == wanted
    assert model.predict(rows=[{"source": texts[0], "target": "w3"}]) == [{**wanted[0], "reference": "w3"}]
    assert model.predict(texts[1]) == [wanted[1]]
    assert model.predict([]) == []


def test_threads_get_their_own_answers(saved: Any) -> None:
    model, texts = slimpajama.load_model(saved["t5"][0]), [[f"w{n} w{n + k}" for n in range(6)] for k in range(4)]
    wanted = [model.predict(own) for own in texts]
    found: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda k=k: found.update({k: model.predict(texts[k])})) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[k] for k in range(4)] == wanted


def test_rows_that_cannot_be_asked_are_named(saved: Any, tmp_path: Path) -> None:
    model = slimpajama.load_model(saved["t5"][0])
    with pytest.raises(DataError, match=r"^row 1: blank source$"):
        model.predict(["w1", " "])
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"source": "w1 w2", "target": "w2 w1"}\n{"source": "w1", "target": ""}\n{"source": "", "target": "w1"}\n'
    )
    done = model.evaluate(str(file), columns={"source": "source"})
    assert [row["row_id"] for row in done.predictions] == [0]
    assert {reason: entry["rows"] for reason, entry in done.report["dropped"].items()} == {
        "blank target": 1,
        "blank source": 1,
    }


def test_on_the_command_line(saved: Any, tmp_path: Path) -> None:
    folder, data, figures = saved["llama"]
    column = [part for role, name in data["columns"].items() for part in ("--column", f"{role}={name}")]
    line = ["evaluate", str(folder), "--data", data["source"], *column, "--split", "train[170:]", "--json"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == pytest.approx(figures, rel=1e-5)
    asked = CliRunner().invoke(app, ["predict", str(folder), "w1 w2", "w3", "--json"])
    wanted = slimpajama.load_model(folder).predict(["w1 w2", "w3"])
    assert json.loads(asked.stdout) == wanted
    (tmp_path / "asked.txt").write_text("w1 w2\nw3\n")
    out = tmp_path / "out.jsonl"
    CliRunner().invoke(app, ["predict", str(folder), "--input", str(tmp_path / "asked.txt"), "--output", str(out)])
    assert [json.loads(line) for line in out.read_text().splitlines()] == wanted


def test_a_runner_that_does_not_generate_is_refused() -> None:
    model = FakeLanguageModel()
    bound = FakePrompted().bind(model.processor, model.config, {}, language_tools.Limits(max_length=16))
    runner = FakeRunner(model, bound.head)
    runner.capabilities = frozenset({"forward"})
    with pytest.raises(RefusalError, match=r"^the runtime gives forward, and this needs 'generate'$"):
        predict_rows(runner, bound, [{"text": "w9 w10"}])


def test_a_runner_that_only_generates_evaluates_too(saved: Any) -> None:
    """Without the loss."""
    model = slimpajama.load_model(saved["t5"][0])
    runner, (_, bound) = model.runner(), model.task()
    source = model.opened(saved["t5"][1])
    wanted = evaluate_rows(runner, bound, source)[0]
    runner.capabilities = runner.capabilities - {"forward"}
    found, rows, _ = evaluate_rows(runner, bound, source)
    assert found == {name: wanted[name] for name in (*bound.answer_metrics, "rows")}
    assert set(rows[0]) == {"feature_id", "row_id", "text", "reference", "finish"}


def test_a_model_from_elsewhere_is_asked_as_it_is(tmp_path: Path) -> None:
    """Its configuration says that it writes a text for a text; what its files demand of every text (never the padding token, a first
    token) is honoured as transformers does."""
    transformers.set_seed(5)
    sizes = {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    }
    config = transformers.BartConfig(
        vocab_size=len(language_tools.WORDS), encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=5, eos_token_id=6, decoder_start_token_id=6, forced_bos_token_id=None, init_std=0.5, **sizes,
    )  # fmt: skip
    model = transformers.BartForConditionalGeneration(config).eval()
    tokenizer = language_tools.words_tokenizer("t5", model_max_length=48)
    text = "w1 w2 w3 w4"
    ids = tokenizer(text, return_tensors="pt").input_ids
    free = model.generate(ids, max_new_tokens=10, do_sample=False, num_beams=1, forced_eos_token_id=None)[
        0, 1:
    ].tolist()
    model.generation_config.update(bad_words_ids=[[free[1]]], forced_bos_token_id=30, forced_eos_token_id=None)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    theirs = model.generate(ids, max_new_tokens=48, do_sample=False, num_beams=1)[0, 1:]
    assert theirs[0] == 30
    assert free[1] not in theirs.tolist()
    (found,) = slimpajama.load_model(tmp_path).predict(text)
    assert found["text"] == tokenizer.decode(theirs, skip_special_tokens=True)
