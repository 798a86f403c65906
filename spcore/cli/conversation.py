"""A conversation with a model, and the commands that change it. What prints is the caller's (`spcore.cli.repl`)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from spcore.errors import DataError, OutputError, SlimPajamaError, UserError, unknown
from spcore.files import write_text
from spcore.recipe_errors import checked

if TYPE_CHECKING:
    from spcore.api import LanguageModelHandle
    from spcore.api_writing import TextStream

TEMPERATURE, TOP_P = 0.7, 0.95
"""For a conversation, where neither the person nor the model says how to choose: the likeliest words alone go round in circles."""


class Turn(BaseModel):
    """A message of a saved conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["user", "assistant"] = Field(description="who says it")
    content: str = Field(description="what is said")


class Saved(BaseModel):
    """What /save writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="as it was named on the command line")
    system: str | None = Field(None, description="the system's message")
    messages: list[Turn] = Field(description="the conversation")


def read_saved(file: Path) -> Saved:
    """A conversation that /save wrote. Raises DataError, RecipeError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as a saved conversation: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: no saved conversation, expected: a JSON object with `messages`")
    return checked(Saved, content, str(file))


class Conversation:
    """messages: what was said, without the system's message. model: as the person named it. settings: as of `stream_chat`."""

    def __init__(
        self, handle: LanguageModelHandle, model: str, settings: dict[str, Any], system: str | None = None
    ) -> None:
        self.handle, self.model, self.settings, self.system = handle, model, dict(settings), system
        self.messages: list[dict[str, str]] = []
        self._asking: list[dict[str, str]] = []
        self._tries = 0
        self._drawn = True
        if {"temperature", "beams"}.isdisjoint([*handle.generation(), *settings]):
            self.settings["temperature"] = TEMPERATURE
            if {"top_k", "top_p", "min_p"}.isdisjoint(settings):
                self.settings["top_p"] = TOP_P

    def take(self, saved: Saved, system: str | None) -> None:
        """Go on with a saved one. system: in place of its own."""
        self.messages = [turn.model_dump() for turn in saved.messages]
        self.system = system if system is not None else saved.system

    def prepare(self) -> None:
        """Read the weights, and go the whole way once: what is wrong with model, template or settings is raised now."""
        trial = [*self._head(), {"role": "user", "content": "?"}]
        self.handle.chat(trial, **{**self.settings, "max_new_tokens": 1})

    def _head(self) -> list[dict[str, str]]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    def ask(self, text: str) -> TextStream:
        """The answer to a message, to be read and then given to `keep`; without that nothing was said."""
        self._tries = 0
        return self._asked([*self.messages, {"role": "user", "content": text}])

    def again(self) -> TextStream:
        """Another answer to the last message. Raises UserError where there is none, or none that could differ."""
        last = max((n for n, message in enumerate(self.messages) if message["role"] == "user"), default=None)
        if last is None:
            raise UserError("/retry: nothing was asked yet")
        if not self._drawn and self.messages[-1]["role"] == "assistant":
            raise UserError("/retry: nothing is drawn at temperature 0, the answer would be the same")
        self._tries += 1
        return self._asked(self.messages[: last + 1])

    def _asked(self, messages: list[dict[str, str]]) -> TextStream:
        settings = dict(self.settings)
        if self._tries and "seed" in settings:
            settings["seed"] += self._tries
        stream = self.handle.stream_chat([*self._head(), *messages], truncate="left", **settings)
        self._asking, self._drawn = messages, stream.seed is not None
        return stream

    def keep(self, stream: TextStream) -> None:
        """Take message and answer into the history, the answer as far as it came."""
        self.messages = [*self._asking, {"role": "assistant", "content": stream.text}]

    # -- commands --------------------------------------------------------------------------------------------------

    def reset(self, rest: str) -> str:
        """/reset: forget what was said; the system's message stays."""
        self.messages = []
        return "forgotten; the system's message stays" if self.system is not None else "forgotten"

    def set_system(self, rest: str) -> str:
        """/system TEXT: set the system's message; without TEXT: take it away."""
        before, self.system = self.system, rest or None
        if self.system is None:
            return "there is no system's message now"
        try:
            self.prepare()
        except SlimPajamaError:
            self.system = before
            raise
        return "the system's message is set"

    def save(self, rest: str) -> str:
        """/save FILE: write the conversation, for --load."""
        if not rest or "\0" in rest:
            raise UserError("/save: no file named; /save FILE")
        path = Path(os.path.expanduser(rest))  # "~nobody" is a file's name
        if os.path.exists(path):  # not where the name is too long: then writing tells
            try:
                read_saved(path)
            except SlimPajamaError:
                raise OutputError(f"{path}: is there, and no conversation", hint="Name another file") from None
        content = {"model": self.model, "system": self.system, "messages": self.messages}
        write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
        return f"{len(self.messages)} messages in {path}"


COMMANDS: dict[str, Callable[[Conversation, str], str]] = {
    "/reset": Conversation.reset, "/system": Conversation.set_system, "/save": Conversation.save,
}  # fmt: skip
"""Those that change a conversation and ask nothing; each gives a line for the person."""
OTHERS = {
    "/retry": "/retry: another answer to the last message.",
    "/help": "/help: this.",
    "/quit": "/quit: leave, as Ctrl-D does.",
}


def helped() -> Iterator[str]:
    """Lines of /help."""
    yield from (str(command.__doc__) for command in COMMANDS.values())
    yield from OTHERS.values()
    yield '"""  begins and ends a message of several lines; // begins one with a slash; Ctrl-C stops an answer.'


def parsed(line: str) -> tuple[str, str]:
    """(command, the rest of the line); ("", the message) where it is none. Raises UserError for a command that is not known."""
    if line.startswith("//"):
        return "", line[1:]
    if not line.startswith("/"):
        return "", line
    name, _, rest = line.partition(" ")
    if name not in COMMANDS and name not in OTHERS:
        raise UserError(f"{unknown('command', name, [*COMMANDS, *OTHERS])}; a message begins with // for a slash")
    return name, rest.strip()
