"""What a person sets when a model is to write: `GenerationSettings`, and presets. All of it is checked before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from spcore.components import Registry
from spcore.errors import RecipeError, RefusalError, UserError
from spcore.files import read_errors
from spcore.interfaces.model import Processor
from spcore.interfaces.runtime import Grammar
from spcore.recipe import lone_part, part_options
from spcore.recipe_errors import checked
from spcore.recipe_files import Text

MOST = 256
"""New tokens where neither the caller nor the model says how many."""
PLACE = "{text}"
"""Where a preset's prompt takes a text."""
DRAWS = ("top_k", "top_p", "min_p")
"""Settings that limit what is drawn from: nothing is drawn at temperature 0."""
SEARCH = ("length_penalty", "early_stopping")
"""Settings of beam search."""
_FIELDS = (
    "min_new_tokens", "temperature", *DRAWS, "repetition_penalty", "presence_penalty", "frequency_penalty", "beams", *SEARCH,
)  # fmt: skip
_UNSAID = ("suppress", "no_repeat_ngram", "forced_first", "forced_last")
"""Fields of `GenerationRequest` that a model's files alone set."""


class GenerationSettings(BaseModel):
    """How to write. What is not given is as the model's own files say, else as `GenerationRequest` has it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_new_tokens: int | None = Field(
        None, ge=1, description=f"tokens of an answer at most; null: up to {MOST}, as far as the model has room"
    )
    min_new_tokens: int | None = Field(None, ge=0, description="tokens of an answer at least")
    temperature: float | None = Field(
        None, ge=0, description="0: the likeliest token each time; 1: as the model has it; above: wilder"
    )
    top_k: int | None = Field(None, ge=0, description="draw from so many likeliest tokens; 0: from all")
    top_p: float | None = Field(
        None, gt=0, le=1, description="draw from the fewest tokens of this probability together"
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="draw from tokens of at least this share of the likeliest one's probability"
    )
    repetition_penalty: float | None = Field(
        None, gt=0, description="above 1: what was there already, in the prompt too, is less likely"
    )
    presence_penalty: float | None = Field(None, description="taken from the logits of tokens that the answer has")
    frequency_penalty: float | None = Field(None, description="the same, for each time that it has them")
    beams: int | None = Field(None, ge=1, description="above 1: beam search with so many")
    length_penalty: float | None = Field(
        None, description="of beam search; above 0: longer answers, below: shorter ones"
    )
    early_stopping: bool | None = Field(None, description="beam search ends with the first answers, not the best ones")
    n: int = Field(1, ge=1, description="answers to each prompt")
    seed: int | None = Field(None, description="decides all draws; null: drawn, and given out with the answer")
    stop: str | list[str] = Field([], description="texts that end an answer, which ends before them")
    constraint: str | dict[str, Any] | None = Field(
        None, description="what an answer may be: a part of kind `constraint`, {use: NAME, option: value}"
    )
    truncate: Literal["left"] | None = Field(
        None,
        description="left: what is too long loses its beginning, a conversation its oldest turns; null: it is refused",
    )

    def stops(self) -> tuple[str, ...]:
        """The stop strings. Raises RecipeError for an empty one, which would end every answer at once."""
        found = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if "" in found:
            raise RecipeError("stop: found '', expected: text that is not empty")
        return found


class Preset(GenerationSettings):
    """Settings with a prompt, kept in a file."""

    prompt: str = Field(PLACE, min_length=1, description=f"the prompt; {PLACE} stands for what is given with it")
    chat: bool = Field(False, description="ask it as a user's message, by the model's chat template")
    system: str | None = Field(None, description="the system's message before it; goes with chat")

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any]) -> Preset:
        """From a file (YAML, TOML, JSON), or a mapping. Raises RecipeError."""
        name, tree = ("preset", source) if isinstance(source, Mapping) else (str(source), cls._tree(Path(source)))
        preset = checked(cls, tree, name)
        if preset.system is not None and not preset.chat:
            raise RecipeError(f"{name}: system goes with chat: true")
        return preset

    @staticmethod
    def _tree(path: Path) -> Mapping[str, Any]:
        with read_errors():
            if path.exists():
                return Text.read(path).tree
        raise RecipeError(
            f"preset {str(path)!r} does not exist", hint="Give a YAML file; docs/recipes/writing has some"
        )

    def prompts(self, texts: Sequence[str]) -> list[str]:
        """The prompts of some texts; of none, where the prompt has no place for one. Raises UserError."""
        if PLACE not in self.prompt:
            if texts:
                raise UserError(f"preset: its prompt has no place for a text ({PLACE}), and {len(texts)} were given")
            return [self.prompt]
        return [self.prompt.replace(PLACE, text) for text in texts]


def settings_of(given: Mapping[str, Any], what: str, preset: Preset | None = None) -> GenerationSettings:
    """Settings as a program or the command line gives them, over a preset's. what: whose they are. Raises RecipeError."""
    below = (
        {} if preset is None else preset.model_dump(include=set(GenerationSettings.model_fields), exclude_unset=True)
    )
    own = {key: value for key, value in given.items() if value is not None}
    return checked(GenerationSettings, {**below, **own}, what)


def request_fields(settings: GenerationSettings, own: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `GenerationRequest` that do not depend on the prompt. own: what the model's files say (`Steps.generation`); where the
    caller asks for another way to choose (greedy, draws, beams), what they say of theirs does not count. Raises RefusalError."""
    given = {name: value for name in _FIELDS if (value := getattr(settings, name)) is not None}
    theirs = {name: value for name, value in own.items() if name in (*_FIELDS, *_UNSAID) and name not in given}
    beams, temperature = given.get("beams", 1), given.get("temperature")
    without: tuple[str, ...] = ()
    if beams > 1 or temperature == 0:
        without += ("temperature", *DRAWS)
    if temperature or given.get("beams") == 1:
        without += ("beams", *SEARCH)
    if settings.constraint is not None:
        without += ("min_new_tokens", "forced_last")  # the constraint says where an answer may end
    fields = {**{name: value for name, value in theirs.items() if name not in without}, **given, "n": settings.n}
    if "min_new_tokens" not in given and settings.max_new_tokens is not None and "min_new_tokens" in fields:
        fields["min_new_tokens"] = min(fields["min_new_tokens"], settings.max_new_tokens)
    _together(fields, given)
    return fields


def _together(fields: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse what was given and would change nothing."""
    beams, temperature = fields.get("beams", 1), fields.get("temperature", 0.0)
    if beams > 1 and temperature > 0:
        raise RefusalError(f"beams {beams}: beam search draws nothing; leave temperature {temperature:g} out, or beams")
    for name in DRAWS:
        if name in given and beams > 1:
            raise RefusalError(f"{name} {given[name]:g}: beam search draws nothing; leave it out, or beams {beams}")
        if name in given and not temperature:
            raise RefusalError(f"{name} {given[name]:g}: nothing is drawn at temperature 0; give temperature too")
    for name in SEARCH:
        if name in given and beams == 1:
            raise RefusalError(f"{name} {given[name]}: it is beam search's; give beams too")
    n = int(fields["n"])
    if n > 1 and not temperature and beams < n:
        raise RefusalError(
            f"n {n}: at temperature 0 all {n} answers would be the same; give temperature, or beams of at least {n}"
        )


def bound_constraint(settings: GenerationSettings, processor: Processor, registry: Registry) -> Grammar | None:
    """What an answer may be, for this vocabulary. Raises ComponentError, RecipeError, RefusalError."""
    if settings.constraint is None:
        return None
    part = lone_part(settings.constraint, "constraint", registry)
    grammar: Grammar = registry.create("constraint", part.use, part_options(part, "constraint", registry)).bind(
        processor
    )
    return grammar
