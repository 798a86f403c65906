"""Chat templates: how a conversation is written for a model. transformers renders them, in its sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from spcore.errors import RefusalError, SourceError, nearest, short

NAMED = {
    "chatml": (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "plain": (
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
        "{% else %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
}
"""Templates by name: OpenAI's markup as many models took it over; and a dialogue in plain words, for models that saw no other."""
_ANSWER = "an-answer-to-be-found-again"


def template_text(given: str) -> str:
    """A template by its name, of a file, or as it was given. Raises SourceError."""
    if given in NAMED:
        return NAMED[given]
    if "{%" in given or "{{" in given:
        return given
    path = Path(given)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"model.chat_template: {given!r} is not UTF-8") from error
    except (OSError, ValueError) as error:
        near = nearest(given, [*NAMED, *(str(file) for file in path.parent.glob("*.jinja"))])
        guess = f"; did you mean {near!r}?" if near else ";"
        raise SourceError(
            f"model.chat_template: there is no file {short(given)!r}{guess} expected: {', '.join(NAMED)}, a Jinja file, or its text"
        ) from error


def rendered(tokenizer: Any, messages: Sequence[Mapping[str, Any]], *, answer: bool, tokens: bool) -> Any:
    """A conversation as the tokenizer's template writes it: its text, or ids, in which control tokens come from the template alone and
    what reads like one in a message is text. Raises RefusalError with the template's words."""
    settings = {"sanitize_control_tokens": True, "return_dict": False} if tokens else {}
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=answer, tokenize=tokens, **settings
        )
    # A template's own `raise_exception` is a TemplateError, as is what the sandbox forbids; the others are what its code runs into.
    except (
        TemplateError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise RefusalError(f"the chat template refuses the conversation: {words}") from error


def turn_end(tokenizer: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(ids, texts) that end the assistant's turn: what the template writes after an answer. A text, where that is no single token."""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text: str = rendered(tokenizer, messages, answer=False, tokens=False)
    except RefusalError:
        return (), ()
    after = text.rpartition(_ANSWER)[2] if _ANSWER in text else ""
    marker = after.strip()
    if not marker:
        return (), ("\n",) if "\n" in after else ()
    ids = tokenizer(marker, add_special_tokens=False)["input_ids"]
    if ids and int(ids[0]) in tokenizer.added_tokens_decoder:
        return (int(ids[0]),), ()
    return (), (marker,)
