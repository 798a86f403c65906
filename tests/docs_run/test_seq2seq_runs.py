"""What docs/seq2seq.md shows: its recipe learns, its commands do what the page says, its table is the options'."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from docs_run.docs_copy import copied
from spcore.cli import main
from spcore_tasks.options import AnswerOptions, Seq2SeqOptions

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "seq2seq.md").read_text(encoding="utf-8")
WORDS = "red green blue black white small large old new round fast slow".split()


def commands(start: str) -> list[list[str]]:
    """The page's command lines that begin so."""
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S) for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"slimpajama {start}")]


def run(line: list[str], patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys, "argv", ["slimpajama", *line])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)


def test_the_table_is_of_the_options() -> None:
    table = re.findall(r"^\| `(\w+)` \|", PAGE.partition("## Options")[2].partition("## Figures")[0], re.M)
    assert table == list(Seq2SeqOptions.model_fields)
    for name in AnswerOptions.model_fields:
        assert f"`{name}`" in PAGE, name


@pytest.mark.slow
def test_a_model_from_nothing_learns_to_turn_words_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the recipe as it stands: BLEU of what it generates rises at each evaluation, and it can be asked."""
    rng = np.random.default_rng(0)
    rows = [[WORDS[i] for i in rng.integers(0, len(WORDS), rng.integers(1, 6))] for _ in range(6000)]
    pairs = [{"source": " ".join(row), "target": " ".join(reversed(row))} for row in rows]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    copied(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tokenizer,) = commands("tokenizer train")
    run(tokenizer, monkeypatch)
    (recipe,) = commands("run docs/recipes/seq2seq.yaml")
    run([*recipe, "output=runs/seq2seq", "device=cpu"], monkeypatch)
    lines = [json.loads(line) for line in Path("runs/seq2seq/metrics.jsonl").read_text().splitlines()]
    found = [line["metrics"]["bleu"] for line in lines if line["event"] == "evaluated"]
    assert len(found) == 3
    assert found == sorted(found)
    assert found[-1] > 70
    capsys.readouterr()
    run(["predict", "runs/seq2seq", "red old fast", "--json"], monkeypatch)
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer == {"text": "fast old red", "finish": "stop"}
