"""What is written under a constraint is what it allows: random logits, every kind of tokenizer, sampled, greedy and by beams."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constraints.following import made, written
from generation.tokenizers_small import KINDS, processor
from spcore.errors import RefusalError, RunError, SourceError
from spcore.interfaces.runtime import GenerationRequest

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
WAYS: list[dict[str, Any]] = [{"temperature": 2.0, "n": 3}, {}, {"beams": 3, "n": 2}]
CHOICES = {
    "byte-level": ["positive", "negative", "你好，世界。", "🙂", "🙂🙂", "na\n\"ive\\"], "metaspace": ["positive", "negative", "hello world", "café", "世界"],
    "byte-fallback": ["positive", "negative", "你好，世界。", "🙂", "🙂🙂", "the cat"], "wordpiece": ["positive", "negative", "hello world"],
    "characters": ["positive", "hello world", "世界", "🙂"],
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_one_of_the_choices_is_written(kind: str, way: dict[str, Any]) -> None:
    grammar = made("choice", of=CHOICES[kind]).bind(processor(kind))
    drawn, seen = "temperature" in way, set[str]()
    # Training a tokenizer is not deterministic, so neither is how many samples it takes until each choice has come.
    for seed in range(2000 if drawn else 40):
        found = written(kind, grammar, seed=seed, ids=(5, 6 + seed % 50), **way)
        seen |= {one.text for one in found}
        assert seen <= set(CHOICES[kind])
        assert {one.finish for one in found} == {"stop"}
        if drawn and len(seen) == len(CHOICES[kind]) and seed >= 40:
            return
    assert not drawn, f"{set(CHOICES[kind]) - seen} did not come in 6,000 samples"


PATTERNS = [
    "[0-4]{3}-[0-5]+", "(positive|negative)( hello)*", "", "a?", "(the cat,? ?)+", "[^a-y]{2,4}", r"\{\d\}", r"[\s\S]{1,3}", "(你|好|🙂)+",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_written_matches_the_expression(kind: str, pattern: str, way: dict[str, Any]) -> None:
    grammar = made("regex", pattern=pattern).bind(processor(kind))
    for one in written(kind, grammar, max_new_tokens=60, **way):
        if one.finish == "stop" and one.logprob > -np.inf:
            assert re.fullmatch(pattern, one.text), one.text
        else:
            assert one.finish == "length" or not one.ids


_words = st.sampled_from(["a", "name", "Zoë", "你好", 'q"uote', "back\\slash", "🙂"])
_leaves = st.one_of(
    st.just({"type": "boolean"}), st.just({"type": "null"}), st.builds(lambda a, b: {"type": "integer", "minimum": a, "maximum": a + b}, st.integers(-50, 50), st.integers(0, 90)),
    st.builds(lambda a, b: {"type": "string", "minLength": a, "maxLength": a + b}, st.integers(0, 2), st.integers(0, 4)),
    st.builds(lambda words: {"enum": words}, st.lists(_words, min_size=1, max_size=3, unique=True)), st.builds(lambda word: {"const": word}, _words),
    st.just({"type": "string", "pattern": "^[ab]{1,3}$"}),
)  # fmt: skip
schemas = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(
            lambda one, most: {"type": "array", "items": one, "minItems": 1, "maxItems": most}, inner, st.integers(1, 3)
        ),
        st.builds(
            lambda of: {"type": "object", "properties": of, "required": list(of), "additionalProperties": False},
            st.dictionaries(_words, inner, max_size=3),
        ),
        st.builds(lambda several: {"anyOf": several}, st.lists(inner, min_size=1, max_size=2)),
    ),
    max_leaves=4,
)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is what the schemas above describe."""
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kind = schema["type"]
    if kind == "object":
        return list(value) == list(schema["properties"]) and all(
            fits(value[k], of) for k, of in schema["properties"].items()
        )
    if kind == "array":
        return schema["minItems"] <= len(value) <= schema["maxItems"] and all(
            fits(one, schema["items"]) for one in value
        )
    if kind == "string":
        right = re.fullmatch(schema.get("pattern", ".*"), value, re.S) is not None
        return right and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 9)
    if kind == "integer":
        return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
    return value is None if kind == "null" else type(value) is bool


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
def test_what_is_written_is_json_of_the_schema(kind: str, compact: bool) -> None:
    done: list[bool] = []

    @QUICK
    @given(schemas, st.sampled_from(WAYS), st.integers(0, 99))
    def check(schema: dict[str, Any], way: dict[str, Any], seed: int) -> None:
        grammar = made("json-schema", definition=schema, compact=compact).bind(processor(kind))
        for one in written(kind, grammar, seed=seed, max_new_tokens=300, **way):
            done.append(one.finish == "stop")
            if one.finish == "stop" and one.logprob > -np.inf:
                value = json.loads(one.text)
                assert fits(value, schema), one.text
                if compact:
                    assert json.loads(one.text) == json.loads(json.dumps(value, separators=(",", ":")))

    check()
    assert sum(done) > len(done) / 3, "most come to an end"


def test_compact_json_has_no_whitespace() -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": [True]}}, "required": ["a", "b"]}
    grammar = made("json-schema", definition={**schema, "additionalProperties": False}, compact=True).bind(
        processor("byte-level")
    )
    assert {one.text for one in written("byte-level", grammar, temperature=1.0, n=4)} == {'{"a":1,"b":[true]}'}


def test_an_end_token_comes_exactly_where_the_text_may_end() -> None:
    byte_level = processor("byte-level")
    matcher = made("regex", pattern="ab*").bind(byte_level).start()
    names = {name: byte_level.tokenizer.token_to_id(name) for name in ("a", "b")}
    assert (matcher.finished, np.flatnonzero(matcher.allowed()).tolist()) == (False, [names["a"]])
    other = matcher.copy()
    matcher.advance(names["a"])
    assert (matcher.finished, np.flatnonzero(matcher.allowed()).tolist()) == (True, [names["b"]])
    assert not other.finished, "a copy goes its own way"
    other.advance(names["a"])
    other.advance(names["b"])
    assert (other.finished, np.flatnonzero(other.allowed()).tolist()) == (True, [names["b"]])
    assert np.flatnonzero(matcher.allowed()).tolist() == [names["b"]]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_never_allowed(kind: str) -> None:
    matcher = made("regex", pattern=r"[\s\S]*").bind(processor(kind)).start()
    for _ in range(4):
        allowed = matcher.allowed()
        assert allowed.shape == (processor(kind).vocabulary_size,)
        assert allowed.dtype == bool
        assert not allowed[[0, 1, 2]].any()
        matcher.advance(int(np.flatnonzero(allowed)[-1]))


@pytest.mark.parametrize("way", [{}, {"temperature": 1.0}, {"beams": 2}], ids=str)
def test_without_end_tokens_a_text_ends_where_nothing_may_follow(way: dict[str, Any]) -> None:
    grammar = made("regex", pattern="[ab]{3}").bind(processor("byte-level"))
    (found,) = written("byte-level", grammar, stop=(), **way)
    assert re.fullmatch("[ab]{3}", found.text)
    assert found.finish == "stop"


@pytest.mark.parametrize("way", [{}, {"temperature": 1.0}, {"beams": 2}], ids=str)
def test_a_text_that_is_cut_off_says_so_and_one_that_is_whole_does_not(way: dict[str, Any]) -> None:
    grammar = made("regex", pattern="[ab]{3}").bind(processor("characters"))
    (cut,) = written("characters", grammar, max_new_tokens=2, **way)
    assert (len(cut.text), cut.finish) == (2, "length")
    (whole,) = written("characters", grammar, max_new_tokens=3, **way)
    assert (len(whole.text), whole.finish) == (3, "stop")


def test_fewer_texts_than_beams_are_said_to_be_none() -> None:
    grammar = made("choice", of=["a", "b"]).bind(processor("characters"))
    found = written("characters", grammar, beams=4, n=4)
    assert sorted(one.text for one in found[:2]) == ["a", "b"]
    assert [(one.text, one.ids, one.logprob) for one in found[2:]] == [("", (), -np.inf)] * 2


def test_requests_with_and_without_constraints_run_beside_each_other() -> None:
    from spcore.generation import DecodingLoop
    from spcore.testing.fakes import FakeDecoder
    from spcore.writing import write

    grammar = made("choice", of=CHOICES["byte-level"]).bind(processor("byte-level"))
    asked = [
        GenerationRequest((5, 6), max_new_tokens=20, temperature=1.0, variant=n, stop=(1,), grammar=grammar if n % 2 else None) for n in range(6)
    ]  # fmt: skip

    def run(requests: list[GenerationRequest]) -> list[str]:
        decoder = FakeDecoder(slots=3, length=64, vocabulary=processor("byte-level").vocabulary_size)
        return [own[0].text for own in write(DecodingLoop(decoder), processor("byte-level"), requests)]

    assert run(asked) == [text for one in asked for text in run([one])]


def test_a_beam_that_the_vocabulary_cannot_go_on_with_is_dropped_and_a_sample_is_an_error() -> None:
    grammar = made("regex", pattern="aü|abe").bind(processor("characters"))
    assert [one.text for one in written("characters", grammar, beams=3)] == ["abe"]
    grammar = made("regex", pattern="aü").bind(processor("characters"))
    with pytest.raises(RunError, match="request 0, new token 2: no token of the model's vocabulary may follow"):
        written("characters", grammar)


# Refusals


@pytest.mark.parametrize(
    ("use", "given", "message"),
    [
        ("regex", {"pattern": "a(bc"}, "constraint 'regex': pattern 'a(bc': unclosed group, at character 2, '(bc'"),
        ("regex", {"pattern": "a(?=b)"}, "constraint 'regex': pattern 'a(?=b)': look-around, including look-ahead and look-behind, is not supported, at character 2, '(?=b)'"),
        ("json-schema", {"definition": {"type": "strin"}}, "constraint 'json-schema': the schema: Invalid type: strin. Leave it out of the schema and check it in the answer"),
        ("json-schema", {"definition": {"type": "object", "properties": {"a": {"type": "array", "items": {"not": {"type": "null"}}}}}},
         "constraint 'json-schema': at /properties/a/items: Unimplemented keys: [\"not\"]. Leave it out of the schema and check it in the answer"),
        ("json-schema", {"definition": {"$defs": {"x": {"type": "array", "uniqueItems": True}}, "anyOf": [{"type": "null"}, {"$ref": "#/$defs/x"}]}},
         "constraint 'json-schema': at /$defs/x: Unimplemented keys: [\"uniqueItems\"]. Leave it out of the schema and check it in the answer"),
        ("json-schema", {"definition": {"properties": {"a": {"type": "string", "pattern": "(x"}}}},
         "constraint 'json-schema': at /properties/a: unclosed group, at character 1, '(x'. Leave it out of the schema and check it in the answer"),
        ("json-schema", {"definition": {"$ref": "#/$defs/none"}}, "constraint 'json-schema': the schema: Pointer '/$defs/none' does not exist. Leave it out of the schema and check it in the answer"),
    ],
)  # fmt: skip
def test_what_cannot_be_expressed_is_refused_with_its_place(use: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusalError) as caught:
        made(use, **given).bind(processor("byte-level"))
    assert str(caught.value) == message


def test_a_text_that_the_vocabulary_cannot_begin_is_refused() -> None:
    with pytest.raises(RefusalError, match="no text that it allows begins with a token of the model"):
        made("regex", pattern="ü").bind(processor("characters"))


def test_choices_that_the_vocabulary_cannot_write_are_named() -> None:
    with pytest.raises(RefusalError) as caught:
        made("choice", of=["hello", "aü", "mañana"]).bind(processor("characters"))
    assert str(caught.value) == "constraint 'choice': the model's tokens cannot write 'aü', 'mañana'"


def test_a_schema_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"enum": ["ab"]}')
    (found,) = written("byte-level", made("json-schema", file=str(file)).bind(processor("byte-level")))
    assert found.text == '"ab"'
    file.write_text('{"enum":\n ["ab"')
    with pytest.raises(SourceError, match=r"schema\.json, line 2: no JSON"):
        made("json-schema", file=str(file))
    file.write_text("[1]")
    with pytest.raises(SourceError, match="holds list, a schema is an object"):
        made("json-schema", file=str(file))
    with pytest.raises(SourceError, match="there is no file"):
        made("json-schema", file=str(tmp_path / "none.json"))


@pytest.mark.parametrize("given", [{}, {"definition": {}, "file": "x"}])
def test_a_schema_is_given_once(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give one of definition and file"):
        made("json-schema", **given)
