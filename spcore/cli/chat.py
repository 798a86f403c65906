"""`slimpajama chat MODEL`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from spcore.cli.writing import SETTINGS, with_settings

_SETTINGS = tuple(name for name in SETTINGS if name not in ("truncate", "min_new_tokens", "early_stopping"))


@with_settings(*_SETTINGS)
def chat(
    model: Annotated[str, typer.Argument(help="A Hub name, a folder, or a GGUF file.")],
    system: Annotated[str | None, typer.Option(help="The system's message, before all others.")] = None,
    load: Annotated[Path | None, typer.Option(help="Go on with a conversation that /save wrote.")] = None,
    template: Annotated[
        str | None, typer.Option(help="A chat template in place of the model's: chatml, plain, or a Jinja file.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="What runs the model.")] = "torch",
    options: Annotated[
        list[str] | None,
        typer.Option("--runtime-option", metavar="KEY=VALUE", help="An option of the runtime; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    **settings: Any,
) -> None:
    """Talk with a model. Ctrl-C stops an answer, Ctrl-D leaves, /help tells the rest. From a pipe: a message a line."""
    from spcore.cli.conversation import Conversation, read_saved
    from spcore.cli.repl import answer_lines, talk
    from spcore.cli.writing import opened, typed_settings

    given = typed_settings(settings)
    saved = read_saved(load) if load is not None else None
    handle = opened(model, template, runtime, options, device)
    conversation = Conversation(handle, model, given, system)
    if saved is not None:
        conversation.take(saved, system)
    if sys.stdin.isatty() and sys.stdout.isatty():
        talk(conversation)
    else:
        conversation.prepare()
        answer_lines(conversation, sys.stdin)
