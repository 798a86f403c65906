"""`slimpajama generate MODEL [PROMPT ...]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spcore.cli.writing import SETTINGS, with_settings

if TYPE_CHECKING:
    from spcore.api import LanguageModelHandle
    from spcore.writing_settings import Preset


@with_settings(*SETTINGS)
def generate(
    model: Annotated[str, typer.Argument(help="A Hub name, a folder, or a GGUF file.")],
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="What it goes on from; -: all of standard input.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input", "--data", help="A file of prompts, in any format that `evaluate --data` takes; column `prompt`."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the answers there as JSON lines.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="A file with a prompt, in which the given ones take their place, and settings.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask as a user's message, by the model's chat template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="The system's message before it; goes with --chat.")] = None,
    template: Annotated[
        str | None, typer.Option(help="A chat template in place of the model's: chatml, plain, or a Jinja file.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Answers to each prompt.")] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt too, before the answer.")] = False,
    runtime: Annotated[str, typer.Option(help="What runs the model.")] = "torch",
    options: Annotated[
        list[str] | None,
        typer.Option("--runtime-option", metavar="KEY=VALUE", help="An option of the runtime; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as one JSON array.")] = False,
    **settings: Any,
) -> None:
    """Let a model go on from prompts. One answer is printed as it is written."""
    from spcore.cli.output import prepare_output
    from spcore.cli.writing import opened, typed_settings
    from spcore.errors import UserError

    if prompts and source is not None:
        raise UserError("generate: give prompts or --input, not both")
    if echo and (as_json or output is not None):
        raise UserError("--echo is for people; leave it out beside --json and --output")
    prepare_output(output, as_json=as_json)
    given = {**typed_settings(settings), **({} if n is None else {"n": n})}
    chosen = _preset(preset, chat, system)
    said = sys.stdin.read() if "-" in (prompts or []) else ""
    texts = _read(source) if source is not None else [said if text == "-" else text for text in prompts or []]
    handle = opened(model, template, runtime, options, device)
    one = len(chosen.prompts(texts)) == 1 and max(given.get("n", chosen.n), 1) == 1
    if one and not as_json and output is None:
        _stream(handle, texts, chosen, given, echo)
    else:
        _all(handle, texts, chosen, given, output, as_json=as_json, echo=echo)


def _preset(file: str | None, chat: bool, system: str | None) -> Preset:
    """The preset of a file, or none, with what was typed beside it."""
    from spcore.errors import UserError
    from spcore.writing_settings import Preset

    found = Preset.read(file if file is not None else {})
    if system is not None and not (chat or found.chat):
        raise UserError("--system goes with --chat")
    typed = {**({"chat": True} if chat else {}), **({} if system is None else {"system": system})}
    return found.model_copy(update=typed)


def _read(source: str) -> list[str]:
    """The prompts of a file. Raises DataError for a row without one."""
    from spcore.components import default_registry
    from spcore.errors import DataError
    from spcore.given import data_tree
    from spcore.interfaces.task import Role
    from spcore.recipe import data_part, part_options
    from spcore.rows import open_rows

    registry = default_registry()
    part = data_part(data_tree(source, None, registry, None), registry)
    dataset = registry.create("dataset", part.use, part_options(part, "dataset", registry))
    roles = [Role("prompt", guesses=("text", "instruction", "question", "input"))]
    rows = open_rows(dataset, roles, columns=part.columns, split=part.split, limit=None)
    if rows.length is None:
        raise DataError(f"{source}: a stream; generate reads files")
    found = [row["prompt"] for row in rows.read(range(rows.length))]
    for reason, lines in rows.report.dropped.items():
        if lines:
            raise DataError(f"{source}:{lines[0]}: {reason} (the first of {len(lines)}); answers would not match rows")
    for at, text in enumerate(found):
        if not isinstance(text, str):
            raise DataError(f"{rows.place(at)}: the prompt is {text!r:.40}, expected: text")
    return found


def _stream(handle: LanguageModelHandle, texts: list[str], preset: Preset, given: dict[str, Any], echo: bool) -> None:
    """One answer, as it is written. Ctrl-C ends it where it is."""
    from spcore.cli.output import note
    from spcore.cli.writing import remark, show, to_stdout
    from spcore.errors import RunCancelled

    try:
        with handle.stream(texts[0] if texts else None, preset=preset, **given) as stream:
            if echo:
                to_stdout(preset.prompts(texts)[0])
            show(stream, to_stdout)
    except KeyboardInterrupt:
        to_stdout("\n")
        raise typer.Exit(RunCancelled.exit_code) from None
    if not stream.text.endswith("\n"):
        to_stdout("\n")
    if stream.left_out:
        note(f"({stream.left_out} tokens of the prompt's beginning were left out)")
    if (said := remark(stream)) is not None:
        note(said)


def _all(
    handle: LanguageModelHandle, texts: list[str], preset: Preset, given: dict[str, Any], output: Path | None, *, as_json: bool,
    echo: bool,
) -> None:  # fmt: skip
    """All answers, once all are there."""
    import json

    from spcore.cli.output import finite, note, result
    from spcore.cli.writing import to_stdout
    from spcore.files import write_text

    answers = handle.generate(texts, preset=preset, **given)
    each = len(answers) // max(1, len(preset.prompts(texts)))
    prompts = [prompt for prompt in preset.prompts(texts) for _ in range(each)]
    if output is not None:
        rows = [{"prompt": prompt, **answer} for prompt, answer in zip(prompts, answers, strict=True)]
        write_text(output, "".join(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows))
        note(f"{len(answers)} answers in {output}")
    elif as_json:
        result(answers, as_json=True)
    else:
        for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), 1):
            text = (prompt if echo else "") + answer["text"]
            to_stdout(f"{'' if n == 1 else chr(10)}== {n} of {len(answers)} ({answer['finish']}) ==\n{text.rstrip()}\n")
