"""Reads what a person or a pipe says to a `Conversation`, and writes what it answers."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spcore.cli.conversation import COMMANDS, OTHERS, Conversation, helped, parsed
from spcore.cli.output import complain, note
from spcore.cli.writing import plain, remark
from spcore.errors import SlimPajamaError, UserError

if TYPE_CHECKING:
    from spcore.api_writing import TextStream

FENCE = '"""'
_LEAVE = "(Ctrl-C again, Ctrl-D or /quit leaves)"


class Leave(Exception):
    """The person has had enough."""


def answer_lines(conversation: Conversation, lines: Iterable[str]) -> None:
    """From a pipe: each line is a message or a command, answers go to stdout, each with a line's end. A mistake ends it."""
    reading = (line.rstrip("\n") for line in lines)

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    with contextlib.suppress(Leave):
        for text in messages(lambda prompt: next(reading, None)):
            _carry_out(conversation, text, write, contextlib.nullcontext)


def talk(conversation: Conversation) -> None:
    """On a terminal: a prompt, answers as they are written, Ctrl-C and mistakes survived."""
    from rich.console import Console

    console = Console(highlight=False)
    with console.status("reading the weights"):
        conversation.prepare()
    _edited_lines()
    for line in _greeting(conversation):
        console.print(line, style="dim", markup=False)
    reading = messages(_Prompt(console))
    while True:
        try:
            text = next(reading, None)
            if text is None:
                break
            _carry_out(conversation, text, lambda piece: console.out(plain(piece), end=""), _stoppable)
        except Leave:
            break
        except SlimPajamaError as error:
            complain(str(error))
        except KeyboardInterrupt:  # before an answer began, or in a command: nothing was said or done
            console.print("(stopped)", style="dim")
    console.print()


def _greeting(conversation: Conversation) -> Iterator[str]:
    settings = ", ".join(f"{name} {value}" for name, value in conversation.settings.items())
    yield f"{Path(conversation.model).name}: {settings or 'as its files say'}"
    yield "/help tells the commands; Ctrl-D leaves"
    for message in conversation.messages:
        yield f"{'>' if message['role'] == 'user' else ' '} {plain(message['content'])}"


class _Prompt:
    """Reads a line with editing; the first Ctrl-C clears the line, a second one leaves."""

    def __init__(self, console: Any) -> None:
        self.console = console

    def __call__(self, prompt: str) -> str | None:
        interrupted = False
        while True:
            try:
                return input(prompt)
            except EOFError:
                return None
            except KeyboardInterrupt:
                self.console.print()
                if interrupted:
                    raise Leave from None
                self.console.print(_LEAVE, style="dim")
                interrupted = True


def messages(read: Callable[[str], str | None]) -> Iterator[str]:
    """What is said, line by line; several lines between two FENCEs are one. Blank ones are nothing. read: asked with a prompt."""
    while (line := read("> ")) is not None:
        if line.startswith(FENCE):
            held = [line.removeprefix(FENCE)]
            while not held[-1].rstrip().endswith(FENCE):
                more = read("... ")
                if more is None:
                    raise UserError(f"a message begins with {FENCE} and does not end")
                held.append(more)
            line = "\n".join(held).rstrip().removesuffix(FENCE).strip("\n")
        if line.strip():
            yield line


def _carry_out(
    conversation: Conversation,
    text: str,
    write: Callable[[str], None],
    guard: Callable[[], contextlib.AbstractContextManager[Any]],
) -> None:
    """Answer a message, or do what a command says. guard: round an answer; gives what tells that it shall stop."""
    name, rest = parsed(text)
    if name == "/quit":
        raise Leave
    if name == "/help":
        for line in helped():
            note(line)
    elif name in COMMANDS:
        note(COMMANDS[name](conversation, rest))
    else:
        stream = conversation.again() if name == "/retry" else conversation.ask(rest)
        if stream.left_out:
            note(f"(the oldest {stream.left_out} messages no longer fit, and were left out)")
        _written(conversation, stream, write, guard)


def _written(
    conversation: Conversation,
    stream: TextStream,
    write: Callable[[str], None],
    guard: Callable[[], contextlib.AbstractContextManager[Any]],
) -> None:
    with stream, guard() as stopped:
        for piece in stream:
            write(piece)
            if stopped is not None and stopped():
                break
    conversation.keep(stream)
    write("\n")
    if stream.finish == "cancelled":
        note("(stopped)")
    elif (said := remark(stream)) is not None:
        note(said)


@contextlib.contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks an answer to stop, between two pieces; a second one does not wait for that."""
    asked: list[bool] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, before)


def _edited_lines() -> None:
    """Line editing, history and completion of commands for `input`, where Python has them."""
    with contextlib.suppress(ImportError):
        import readline

        known = [*COMMANDS, *OTHERS]

        def completion(text: str, n: int) -> str | None:
            found = [f"{name} " for name in known if name.startswith(text or " ")]
            return found[n] if n < len(found) else None

        readline.set_completer(completion)
        readline.set_completer_delims(" ")
        readline.parse_and_bind("tab: complete")
