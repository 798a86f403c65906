"""The constraints: what each allows, as a grammar of llguidance, and how a text that is being written stands in it."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from llguidance import LLMatcher

from spcore.errors import RefusalError, RunError, SourceError
from spcore.interfaces.model import Processor
from spcore.interfaces.runtime import Constraint, Grammar, Matcher
from spcore_constraints.options import ChoiceOptions, JsonSchemaOptions, RegexOptions
from spcore_constraints.vocabulary import Vocabulary

_VOCABULARIES: weakref.WeakKeyDictionary[Processor, Vocabulary] = weakref.WeakKeyDictionary()
"""Made once for each processor that lives: tens of thousands of tokens take a second."""
_QUIET = 0
_DEAD_END = "NoExtensionBias"
"""How llguidance says that no token of the vocabulary goes on with a text that may not end here."""


class JsonSchema(Constraint):
    """JSON that a schema describes (draft 2020-12, as far as llguidance has it: what it lacks is refused, never left out)."""

    def __init__(self, options: JsonSchemaOptions) -> None:
        self._schema: Any = options.definition if options.file is None else _read(Path(options.file))
        self._compact = options.compact

    def bind(self, processor: Processor) -> Grammar:
        """See `Constraint.bind`."""
        error = _error(self._grammar(self._schema))
        if error is not None:
            place = next(self._failing(self._schema, error), "")
            raise RefusalError(
                f"constraint 'json-schema': {'at ' + place if place else 'the schema'}: {error}",
                hint="Leave it out of the schema and check it in the answer",
            )
        return bound(self._grammar(self._schema), processor)

    def _grammar(self, schema: Any) -> str:
        spacing = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"} if self._compact else None
        made: str = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=spacing)
        return made

    def _failing(self, schema: Any, error: str, place: str = "") -> Iterator[str]:
        """JSON pointers to the innermost schemas that alone give this error; llguidance names none."""
        shared = {name: self._schema[name] for name in ("$defs", "definitions") if name in self._schema}
        for name, inner in _inside(schema):
            alone = {**shared, **inner} if isinstance(inner, dict) else inner
            if _error(self._grammar(alone)) == error:
                yield from self._failing(inner, error, f"{place}/{name}")
        yield place


class Regex(Constraint):
    """Text that a regular expression matches from its beginning to its end."""

    def __init__(self, options: RegexOptions) -> None:
        self._pattern = options.pattern

    def bind(self, processor: Processor) -> Grammar:
        """See `Constraint.bind`."""
        grammar = LLMatcher.grammar_from_regex(self._pattern)
        error = _error(grammar)
        if error is not None:
            raise RefusalError(f"constraint 'regex': pattern {self._pattern!r}: {error}")
        return bound(grammar, processor)


class Choice(Constraint):
    """One of several texts."""

    def __init__(self, options: ChoiceOptions) -> None:
        self._texts = options.of

    def bind(self, processor: Processor) -> Grammar:
        """See `Constraint.bind`."""
        unwritten = [text for text in self._texts if not vocabulary_of(processor).writes(text)]
        if unwritten:
            raise RefusalError(
                f"constraint 'choice': the model's tokens cannot write {', '.join(map(repr, unwritten))}"
            )
        alternatives = " | ".join(json.dumps(text, ensure_ascii=False) for text in self._texts)
        return bound(LLMatcher.grammar_from_lark(f"start: {alternatives}"), processor)


class _Bound:
    """Implements `Grammar`. first: a matcher that no text has advanced."""

    def __init__(self, vocabulary: Vocabulary, first: LLMatcher) -> None:
        self._vocabulary, self._first = vocabulary, first

    def start(self) -> Matcher:
        """See `Grammar.start`."""
        return _Place(self._vocabulary, self._first.deep_copy())


class _Place:
    """Implements `Matcher`. The mask is computed once for each token."""

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher) -> None:
        self._vocabulary, self._matcher = vocabulary, matcher
        self._mask: np.ndarray | None = None

    @property
    def finished(self) -> bool:
        """See `Matcher.finished`."""
        return bool(self._matcher.is_accepting())

    def allowed(self) -> np.ndarray:
        """See `Matcher.allowed`."""
        if self._mask is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            if not str(self._matcher.get_error()).startswith(_DEAD_END):  # then none is allowed, as the mask says
                self._check()
            self._mask = np.unpackbits(bits, bitorder="little")[: self._vocabulary.size].astype(bool)
        return self._mask

    def advance(self, token: int) -> None:
        """See `Matcher.advance`."""
        self._matcher.consume_token(token)
        self._check()
        self._mask = None

    def copy(self) -> Matcher:
        """See `Matcher.copy`."""
        other = _Place(self._vocabulary, self._matcher.deep_copy())
        other._mask = self._mask
        return other

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = str(self._matcher.get_error()).partition("\n")[0]
            raise RunError(f"the constraint cannot be followed any further: {reason}", hint="Make it simpler")


def vocabulary_of(processor: Processor) -> Vocabulary:
    """Of a processor, made once."""
    vocabulary = _VOCABULARIES.get(processor)
    if vocabulary is None:
        vocabulary = _VOCABULARIES[processor] = Vocabulary(processor)
    return vocabulary


def bound(grammar: str, processor: Processor) -> Grammar:
    """A grammar of llguidance, as JSON or in its Lark, over a processor's tokens."""
    vocabulary = vocabulary_of(processor)
    first = LLMatcher(vocabulary.tokenizer, _whole(grammar, vocabulary.leading), log_level=_QUIET)
    if first.is_error():
        raise RefusalError(f"the constraint: {_one_line(first.get_error())}")
    made = _Bound(vocabulary, first)
    begin = made.start()
    if not begin.finished and not begin.allowed().any():
        raise RefusalError(
            "the constraint: no text that it allows begins with a token of the model",
            hint="Allow more, or use another model",
        )
    return made


def _whole(grammar: str, leading: bool) -> str:
    """The grammar of a whole text, with a space in front where decoding drops one. Nothing is forced: where only one text may follow, all
    tokens that spell it are allowed, not only those that llguidance would choose, as it tokenizes without what stands before."""
    parts = json.loads(grammar)["grammars"] if grammar.lstrip().startswith("{") else [{"lark_grammar": grammar}]
    start = f'%llguidance {{"no_forcing": true}}\nstart: {chr(34) + " " + chr(34) if leading else ""} @inner'
    return json.dumps({"grammars": [{"lark_grammar": start}, {**parts[0], "name": "inner"}]})


def _error(grammar: str) -> str | None:
    """What is wrong with a grammar, in one line; None where nothing is."""
    broken, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return _one_line(messages[0]) if broken else None


def _one_line(message: str) -> str:
    """llguidance's message in one line, of a regular expression with the place in it."""
    found = re.search(r"regex parse error:\n {4}(.*)\n {4}( *)\^+\nerror: (.*)", message)
    if found is None:
        return " ".join(message.split())
    shown, indent, reason = found.groups()
    return f"{reason}, at character {len(indent) + 1}, {shown[len(indent) :]!r}"


def _inside(schema: Any) -> Iterator[tuple[str, Any]]:
    """Schemas that stand directly in a schema, by the JSON pointer from there."""
    for name, value in schema.items() if isinstance(schema, dict) else ():
        if name in ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas") and isinstance(
            value, dict
        ):
            yield from ((f"{name}/{key}", inner) for key, inner in value.items())
        elif name in ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"):
            yield name, value
        elif name in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            yield from ((f"{name}/{n}", inner) for n, inner in enumerate(value))


def _read(file: Path) -> Any:
    """A schema from a JSON file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SourceError(f"constraint 'json-schema': there is no file {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"constraint 'json-schema': {file} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise SourceError(f"constraint 'json-schema': {file}, line {error.lineno}: no JSON: {error.msg}") from error
    if not isinstance(content, dict):
        raise SourceError(f"constraint 'json-schema': {file} holds {type(content).__name__}, a schema is an object")
    return content
