"""What docs/tasks.md shows: its recipes run on small files of the same shape, its commands answer, its tables are the options'. Figures are
compared with plain transformers and the official scorer on the saved model."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer

from docs_run.docs_copy import copied
from spcore.cli import main
from spcore_tasks.options import SentenceEmbeddingOptions, TokenClassificationOptions

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
TINY = (
    "model={use: transformers, architecture: bert, tokenizer: bytes, hidden_size: 32, layers: 2, heads: 2, intermediate_size: 48, "
    "positions: 192, dropout: 0.0}"
)
SHORT = [TINY, "device=cpu", "train.epochs=null", "train.steps=12", "optimizer.lr=1e-2", "train.global_batch_size=16"]
PLACES, PEOPLE = ("Rome", "New York", "Bern"), ("Ann", "Bo Lee", "Cy")


def conll(rng: np.random.Generator) -> str:
    """Sentences of three patterns, with tabs."""
    lines = []
    for _ in range(60):
        person, place = rng.choice(PEOPLE), rng.choice(PLACES)
        for word in f"{person} went to {place} .".split():
            kind = "person" if word in person.split() else "location" if word in place.split() else None
            place_in = "B" if word in (person.split()[0], place.split()[0]) else "I"
            lines.append(f"{word}\t{f'{place_in}-{kind}' if kind else 'O'}")
        lines.append("")
    return "\n".join(lines)


def swag(rng: np.random.Generator) -> str:
    lines = ["sent1,sent2,ending0,ending1,ending2,ending3,label"]
    for _ in range(40):
        words = rng.permutation(["red", "green", "blue", "white"])
        right = int(rng.integers(4))
        lines.append(f"a {words[right]} door,It is,{','.join(words)},{right}")
    return "\n".join(lines) + "\n"


def pairs(rng: np.random.Generator) -> str:
    names = [f"{a} {b}" for a in ("red", "green", "blue", "old", "new") for b in ("door", "house", "street", "bird")]
    rows = [
        {"anchor": f"a {n}", "positive": f"one {n}", "negative": f"no {names[k % len(names) - 1]}"}
        for k, n in enumerate(names * 2)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def scored(rng: np.random.Generator) -> str:
    lines = ["sentence1,sentence2,score"]
    lines += [
        f"a {'very ' * n}good film,a {'very ' * (n % 3)}good film,{5 - abs(n - n % 3) / 2}"
        for n in rng.integers(0, 8, 40)
    ]
    return "\n".join(lines) + "\n"


FILES: dict[str, tuple[str, Callable[[np.random.Generator], str]]] = {
    "token-classification": ("wnut17train.conll", conll), "multiple-choice": ("swag.csv", swag),
    "sentence-embedding": ("pairs.jsonl", pairs), "sentence-pair": ("pairs.csv", scored),
}  # fmt: skip
FIGURES = {
    "token-classification": {"f1", "precision", "recall", "accuracy", "person_f1", "location_f1"}, "multiple-choice": {"accuracy"},
    "sentence-embedding": {"accuracy", "mrr"}, "sentence-pair": {"pearson", "spearman", "pearson_spearman", "mse"},
}  # fmt: skip


def commands(start: str) -> list[list[str]]:
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S) for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"slimpajama {start}")]


def run(line: list[str], patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys, "argv", ["slimpajama", *line])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)


def test_the_tables_are_of_the_options() -> None:
    tables = re.findall(r"^\| `task.` \|.*?\n\n", PAGE, re.M | re.S)
    found = [re.findall(r"^\| `(\w+)` \|", table, re.M) for table in tables]
    assert found == [list(TokenClassificationOptions.model_fields), list(SentenceEmbeddingOptions.model_fields)]


@pytest.mark.parametrize("name", FILES)
def test_recipes_run_and_answers_come(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, write = FILES[name]
    (tmp_path / file).write_text(write(np.random.default_rng(0)))
    copied(tmp_path)
    monkeypatch.chdir(tmp_path)
    (recipe,) = commands(f"run docs/recipes/{name}.yaml")
    run([*recipe, *SHORT], monkeypatch)
    (output,) = Path("runs").iterdir()
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    figures = [line["metrics"] for line in lines if line["event"] == "evaluated"]
    assert FIGURES[name] <= set(figures[-1])
    losses = [line["loss"] for line in lines if line["event"] == "step"]
    assert np.mean(losses[-3:]) < losses[0]
    for asked in commands(f"predict {output}"):
        capsys.readouterr()
        run(asked, monkeypatch)
        (answer,) = json.loads(capsys.readouterr().out)
        CHECKS[name](output, answer)
    capsys.readouterr()
    run(["evaluate", str(output), "--data", file, "--json"], monkeypatch)
    evaluated = json.loads(capsys.readouterr().out)
    if name == "token-classification":
        assert evaluated["f1"] == pytest.approx(by_transformers(output, Path(file)), abs=1e-9)


def by_transformers(folder: Path, file: Path) -> float:
    """seqeval's F1 of what transformers' own model says of the words' first tokens, a space before each as byte-level tokens have it."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForTokenClassification.from_pretrained(folder).eval(),
    )
    gold, guessed = [], []
    for sentence in file.read_text().strip().split("\n\n"):
        words, tags = zip(*(line.split("\t") for line in sentence.split("\n")), strict=True)
        encoded = tokenizer([f" {word}" for word in words], is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            best = model(**encoded).logits[0].argmax(-1).tolist()
        of = encoded.word_ids()
        first = [of.index(n) for n in range(len(words))]
        gold.append(list(tags))
        guessed.append([model.config.id2label[best[at]] for at in first])
    return float(f1_score(gold, guessed))


def _tagged(folder: Path, answer: dict[str, Any]) -> None:
    text = "Angela Merkel spoke in Berlin."
    assert len(answer["tags"]) == 6
    assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in answer["entities"])


def _chosen(folder: Path, answer: dict[str, Any]) -> None:
    assert answer["text"] == ["The street is wet.", "The street is dry."][answer["choice"]]
    assert sum(answer["scores"]) == pytest.approx(1)


def _embedded(folder: Path, answer: dict[str, Any]) -> None:
    """The mean of AutoModel's last hidden states, of length 1."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model(**tokenizer("A dog barks.", return_tensors="pt")).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(answer["embedding"], torch.nn.functional.normalize(hidden, dim=0), atol=1e-5)


CHECKS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "token-classification": _tagged, "multiple-choice": _chosen, "sentence-embedding": _embedded,
}  # fmt: skip
