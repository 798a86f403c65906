"""The objectives under real architectures: losses and perplexities are transformers' own, from every door."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from language_tools import augmented, bind, features, folder_of, text_of_words
from transformers import AutoModelForCausalLM, AutoTokenizer

import slimpajama
from spcore.cli import main
from spcore.errors import RefusalError
from spcore.interfaces.task import Limits
from spcore.tensors.materialise import materialise
from spcore.tensors.ops import WholeOps, as_tensors
from spcore_transformers.model import TransformersModel
from spcore_transformers.options import TransformersOptions

TEXTS = [text_of_words(150), text_of_words(37, 1), "w1 w2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: folder_of(kind, root / kind) for kind in ("llama", "bert", "t5")}


@pytest.mark.parametrize(
    ("task", "kind", "auto"),
    [("causal-lm", "llama", "AutoModelForCausalLM"), ("masked-lm", "bert", "AutoModelForMaskedLM"), ("denoising", "t5", "AutoModelForSeq2SeqLM")],
)  # fmt: skip
def test_the_loss_is_transformers_own(task: str, kind: str, auto: str, folders: dict[str, Path]) -> None:
    """Which takes labels that are not shifted yet, and puts the decoder's first token before them itself."""
    model = TransformersModel(TransformersOptions()).open(str(folders[kind]))
    bound = bind(task, Limits(24), model.processor, model.config)
    made = augmented(bound, features(bound, TEXTS))
    batch = bound.collate([[f] for f in made], 24)
    inputs, targets = as_tensors(batch.inputs), as_tensors(batch.targets)
    theirs = getattr(transformers, auto).from_pretrained(folders[kind]).eval()
    module = model.build(bound.head)
    materialise(module, model, bound.head, 0)
    ready = type(batch)(inputs, targets, batch.row_of, batch.feature_ids, batch.weights)
    with torch.no_grad():
        (term,) = bound.loss(module.eval()(**inputs), ready, WholeOps())
        if task == "causal-lm":
            # The last label of a window is the next window's first token, which transformers' own shift does not know.
            ids = torch.cat([inputs["input_ids"], torch.zeros(len(made), 1, dtype=torch.long)], 1)
            labels = torch.cat([torch.full((len(made), 1), -100), targets["labels"]], 1)
            mask = torch.cat([inputs["attention_mask"], torch.zeros(len(made), 1, dtype=torch.long)], 1)
            wanted = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
        else:
            given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            wanted = theirs(**given, labels=targets["labels"]).loss
    assert float(term.sum) / batch.weights["tokens"] == pytest.approx(float(wanted), rel=1e-5)


def sliding(folder: Path, texts: Sequence[str], size: int, stride: int) -> dict[str, float]:
    """A sliding window by the book: one window at a time, each target once, as transformers' guide has it."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    nats, count, size_of, characters = 0.0, 0, 0, 0
    for text in texts:
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        done = 1
        for first in range(0, len(ids), size - stride):
            part = torch.tensor([ids[first : first + size]])
            with torch.no_grad():
                logprobs = model(part).logits[0].double().log_softmax(-1)
            for n in range(part.shape[1]):
                target = first + n + 1
                if done <= target < len(ids):
                    nats -= float(logprobs[n, ids[target]])
                    count += 1
                    done = target + 1
            if done == len(ids):
                break
        size_of += len(text.encode()) - len(text.split()[0])
        characters += len(text) - len(text.split()[0])
    return {
        "loss": nats / count, "perplexity": math.exp(nats / count), "bits_per_byte": nats / math.log(2) / size_of,
        "nats_per_character": nats / characters,
    }  # fmt: skip


@pytest.mark.parametrize(("size", "stride"), [(16, None), (16, 8), (16, 15), (64, 20)])
def test_a_sliding_window_is_the_plain_one(size: int, stride: int | None, folders: dict[str, Path]) -> None:
    """To 1e-4, as float32 sums allow; the model was never trained by us."""
    rows = [{"text": text} for text in TEXTS]
    found = slimpajama.load_model(folders["llama"]).evaluate(rows, max_length=size, stride=stride)
    wanted = sliding(folders["llama"], TEXTS, size, stride or 0)
    assert {name: found.metrics[name] for name in wanted} == pytest.approx(wanted, rel=1e-4)
    assert sum(row["tokens"] for row in found.predictions) == sum(len(text.split()) for text in TEXTS)


def test_blocks_are_those_of_published_figures(folders: dict[str, Path]) -> None:
    """Blocks that do not overlap, each scored by transformers' own loss, no special tokens."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folders["llama"]).eval(),
        AutoTokenizer.from_pretrained(folders["llama"]),
    )
    ids = tokenizer(TEXTS[0], add_special_tokens=False, return_tensors="pt")["input_ids"][0, :144]
    with torch.no_grad():
        wanted = sum(float(model(b[None], labels=b[None]).loss) for b in ids.split(16)) / 9
    text = " ".join(TEXTS[0].split()[:144])
    settings = {"task.look_ahead": False, "task.end_of_text": False}
    found = slimpajama.load_model(folders["llama"]).evaluate([{"text": text}], max_length=16, settings=settings)
    assert found.metrics["loss"] == pytest.approx(wanted, rel=1e-5)


def test_the_command_says_the_same(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def run(*words: Any) -> tuple[int, str, str]:
        given = ["evaluate", folders["llama"], "--data", tmp_path / "rows.jsonl", "--json", *words]
        monkeypatch.setattr(sys, "argv", ["slimpajama", *map(str, given)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    code, out, _ = run("--max-length", 16, "--stride", 8, "--set", "task.end_of_text=</s>")
    assert code == 0
    assert json.loads(out)["loss"] == pytest.approx(sliding(folders["llama"], TEXTS, 16, 8)["loss"], rel=1e-4)
    capsys.readouterr()
    for words, said in (
        (("--stride", 70), "data.stride 70: windows of 64 tokens overlap by 63 at most; give less"),
        (("--max-length", 99), "data.max_length 99: the model has 64 positions; give 64 or less"),
        (("--set", "data.pack=64"), "data.pack 64: an evaluation makes no packs; leave it out"),
        (("--set", "optimizer.lr=1"), "evaluate: setting 'optimizer.lr', expected: data.KEY or task.KEY"),
        (("--set", "task.look_back=1"), "look_ahead"),
    ):
        code, out, err = run(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert said in err


def test_models_that_were_trained_elsewhere_know_their_task(folders: dict[str, Path]) -> None:
    for kind, named in (("bert", "BoundMaskedLM"), ("t5", "BoundDenoising"), ("llama", "BoundCausalLM")):
        model = slimpajama.load_model(folders[kind])
        assert type(model.task()[1]).__name__ == named
        found = model.evaluate([{"text": text} for text in TEXTS], max_length=32)
        assert found.metrics["loss"] > 0
        assert found.metrics == model.evaluate([{"text": text} for text in TEXTS], max_length=32).metrics


def test_what_they_answer(folders: dict[str, Path]) -> None:
    (answer,) = slimpajama.load_model(folders["bert"]).predict("w1 <mask> w3 <mask>")
    words = answer["text"].split()
    assert len(answer["fills"]) == len(answer["scores"]) == 2
    assert all(0 < s < 1 for s in answer["scores"])
    assert (words[0], words[2]) == ("w1", "w3") or any(fill.startswith("<") for fill in answer["fills"])
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folders["llama"]).eval(),
        AutoTokenizer.from_pretrained(folders["llama"]),
    )
    ids = tokenizer("w1 w2 w3", add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        shares = model(ids).logits[0, -1].softmax(-1)
    (found,) = slimpajama.load_model(folders["llama"]).predict("w1 w2 w3")
    assert found.keys() == {"loss", "perplexity", "tokens", "next", "score"}
    assert found["tokens"] == 3
    assert found["next"] == tokenizer.decode([int(shares.argmax())])
    assert found["score"] == pytest.approx(float(shares.max()), rel=1e-4)
    assert found["loss"] == pytest.approx(sliding(folders["llama"], ["w1 w2 w3"], 64, 0)["loss"], rel=1e-5)
    with pytest.raises(RefusalError, match="its answers are generated"):
        slimpajama.load_model(folders["t5"]).predict("w1 w2 w3")


@pytest.mark.parametrize(
    ("kind", "task", "said"),
    [
        ("bert", "causal-lm", "task: family 'bert' attends to all positions, and the task needs a model that attends to earlier ones only"),
        ("llama", "masked-lm", "task: family 'llama' attends to earlier positions only, and the task needs a model that attends to all of them"),
        ("llama", "denoising", "task denoising: 'llama' is no encoder-decoder"),
        ("t5", "masked-lm", "task: 't5' is an encoder-decoder"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_is_refused(kind: str, task: str, said: str, folders: dict[str, Path]) -> None:
    with pytest.raises(RefusalError) as refused:
        slimpajama.load_model(folders[kind]).finetune([{"text": text} for text in TEXTS], task, progress=False)
    assert said in str(refused.value)


@pytest.mark.parametrize(("kind", "task"), [("llama", "causal-lm"), ("bert", "masked-lm"), ("t5", "denoising")])
def test_they_learn_and_are_saved(kind: str, task: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """A text that repeats itself is learnt; the saved model is opened by transformers and by us, and says the same."""
    rows = [{"text": " ".join(f"w{(n + k) % 7}" for k in range(40))} for n in range(24)]
    model = slimpajama.load_model(folders[kind])
    model.finetune(
        rows, task, epochs=8, batch_size=8, learning_rate=1e-2, eval_dataset={"use": "files", "source": str(_file(tmp_path, rows))},
        output=tmp_path / "run", settings={"data.max_length": 16, "eval.data.stride": None if task == "denoising" else 4}, progress=False,
    )  # fmt: skip
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event.get("event", event.get("name")) == "step"]
    assert losses
    assert losses[-1] < 0.6 * losses[0]
    (last,) = [event["metrics"] for event in events if "metrics" in event and "rows" in event["metrics"]][-1:]
    saved = slimpajama.load_model(tmp_path / "run")
    again = saved.evaluate(rows, stride=None if task == "denoising" else 4)
    assert again.metrics == pytest.approx(last, rel=1e-4)
    assert getattr(transformers, {"llama": "AutoModelForCausalLM", "bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM"}[kind]).from_pretrained(tmp_path / "run")  # fmt: skip


def _file(folder: Path, rows: list[dict[str, str]]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"
