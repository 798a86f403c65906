"""What `generate` and `chat` share: options for the settings, and text on a terminal."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spcore.api import LanguageModelHandle
    from spcore.api_writing import TextStream

SETTINGS: dict[str, tuple[Any, str]] = {
    "max_new_tokens": (int, "Tokens of an answer at most. Default: up to 256, as far as the model has room."),
    "min_new_tokens": (int, "Tokens of an answer at least."),
    "temperature": (float, "0: the likeliest token each time; 1: as the model has it; above: wilder."),
    "top_k": (int, "Draw from so many likeliest tokens; 0: from all."),
    "top_p": (float, "Draw from the fewest tokens that have this probability together."),
    "min_p": (float, "Draw from tokens of at least this share of the likeliest one's probability."),
    "repetition_penalty": (float, "Above 1: what was there already, in the prompt too, is less likely."),
    "presence_penalty": (float, "Taken from the logits of tokens that the answer has."),
    "frequency_penalty": (float, "The same, for each time that it has them."),
    "beams": (int, "Above 1: beam search with so many."),
    "length_penalty": (float, "Of beam search. Above 0: longer answers; below: shorter ones."),
    "early_stopping": (bool, "Beam search ends with the first answers, not the best ones."),
    "seed": (int, "Decides all draws. Default: another one each time."),
    "stop": (list[str], "A text that ends an answer, which ends before it; repeatable."),
    "truncate": (str, "left: what is too long loses its beginning, a conversation its oldest turns. Default: it is refused."),
}  # fmt: skip
"""Field of `spcore.writing_settings.GenerationSettings` -> (type, help) of its option: written out, as `--help` loads no pydantic."""
CONSTRAINT: dict[str, tuple[Any, str]] = {
    "constraint": (str, "What an answer may be: the name of a part of kind `constraint`."),
    "constraint_option": (list[str], "KEY=VALUE, an option of the constraint; repeatable."),
}
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that takes `**settings` the options of these settings and of a constraint; what is not typed is None."""

    def given(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = {**{name: SETTINGS[name] for name in names}, **CONSTRAINT}
        added = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, typer.Option(help=words)]
            )
            for name, (kind, words) in options.items()
        ]  # fmt: skip
        command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
        return command

    return given


def typed_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they were typed, for `LanguageModelHandle.generate`. Raises UserError."""
    from spcore.errors import UserError
    from spcore.recipe import typed_pairs

    found = {name: value for name, value in given.items() if value not in (None, []) and name not in CONSTRAINT}
    name, options = given.get("constraint"), given.get("constraint_option")
    if options and not name:
        raise UserError("--constraint-option goes with --constraint")
    if name:
        found["constraint"] = {"use": name, **typed_pairs(options or [], "--constraint-option")}
    return found


def opened(
    model: str, template: str | None, runtime: str, options: Sequence[str] | None, device: str
) -> LanguageModelHandle:
    """The model as the command line names it. Raises SlimPajamaError."""
    from spcore.api import load_model
    from spcore.recipe import checked_device, runtime_part

    source = model if template is None else {"source": model, "chat_template": template}
    return load_model(source, runtime=runtime_part(runtime, options), device=checked_device(device))


def plain(text: str) -> str:
    """A model's text without what a terminal would carry out."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def show(stream: TextStream, write: Callable[[str], None]) -> None:
    """Write an answer piece by piece, as it comes."""
    for piece in stream:
        write(piece)


def to_stdout(text: str) -> None:
    """Write a piece at once; on a terminal what it would carry out is left out."""
    sys.stdout.write(plain(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def remark(stream: TextStream) -> str | None:
    """What a person should know of an answer that did not end by itself."""
    if stream.finish == "length":
        return "(ended by --max-new-tokens or the model's room)"
    return None
