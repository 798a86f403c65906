"""`slimpajama convert SOURCE TARGET`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Form(StrEnum):
    """What is written."""

    HF = "hf"
    CHECKPOINT = "checkpoint"


def convert(
    source: Annotated[Path, typer.Argument(help="A run's folder, one of its checkpoints, or a saved model's folder.")],
    target: Annotated[Path, typer.Argument(help="A folder that is new.")],
    to: Annotated[
        Form,
        typer.Option("--to", help="hf: a Hugging Face folder; checkpoint: what training of any strategy goes on from."),
    ] = Form.HF,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Turn a training checkpoint into a Hugging Face folder, or a saved model into a checkpoint. Starts no process; tensors pass one by one."""
    from spcore.cli.output import result
    from spcore.components import default_registry
    from spcore.converting import to_checkpoint, to_hugging_face

    work = to_hugging_face if to == Form.HF else to_checkpoint
    result(work(source, target, default_registry()), as_json=as_json)
