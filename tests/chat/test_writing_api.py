"""What programs call: generate, stream, chat, stream_chat."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest
import talker
from hypothesis import given, settings
from hypothesis import strategies as st

from spcore import LanguageModelHandle, Registry, SlimPajamaError, load_model
from spcore.writing_settings import GenerationSettings


def last_request() -> Any:
    return talker.TalkingRuntime.runners[-1].asked[-1]


def test_answers_are_dicts_in_the_order_of_the_prompts(model: LanguageModelHandle) -> None:
    found = model.generate(["one", "repeat 世界"])
    assert found == [
        {"text": "You said: one", "finish": "stop", "tokens": 13, "prompt_tokens": 4},
        {"text": "世界", "finish": "stop", "tokens": 6, "prompt_tokens": 14},
    ]
    assert model.generate("one") == found[:1]


def test_samples_and_equal_prompts_draw_differently_and_a_seed_repeats_them(model: LanguageModelHandle) -> None:
    found = model.generate(["drawn", "drawn"], n=2, temperature=1.0, seed=100)
    assert [(f["text"], f["sample"], f["seed"]) for f in found] == [
        ("number 100", 0, 100), ("number 101", 1, 100), ("number 110", 0, 100), ("number 111", 1, 100),
    ]  # fmt: skip
    (once,) = model.generate("drawn", temperature=1.0)
    assert model.generate("drawn", temperature=1.0, seed=once["seed"]) == [once]
    assert "seed" not in model.generate("drawn")[0], "nothing was drawn"


def test_length_and_stop_strings(model: LanguageModelHandle) -> None:
    assert model.generate("repeat abcdef", max_new_tokens=3)[0] == {
        "text": "abc", "finish": "length", "tokens": 3, "prompt_tokens": 14,
    }  # fmt: skip
    (found,) = model.generate("repeat one two three", stop=["two", "three"])
    assert (found["text"], found["finish"]) == ("one ", "stop")


@settings(max_examples=40, deadline=None)
@given(
    text=st.text(
        st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=20
    ),  # of the model's positions, 900 are asked for
    stop=st.text(min_size=1, max_size=3),
)
def test_what_is_streamed_joined_is_what_is_returned(text: str, stop: str) -> None:
    registry = Registry(entry_points=False)
    registry.register(talker, name="talker")
    handle = load_model("talker:small", runtime="talker", registry=registry)
    prompt = f"repeat {text}"
    (whole,) = handle.generate(prompt, stop=stop, max_new_tokens=900)
    stream = handle.stream(prompt, stop=stop, max_new_tokens=900)
    pieces = list(stream)
    assert all(pieces)
    assert ("".join(pieces), stream.text, stream.finish) == (whole["text"], whole["text"], whole["finish"])


def test_a_stream_that_is_closed_ends_and_leaves_room(model: LanguageModelHandle) -> None:
    stream = model.stream("forever", max_new_tokens=900)
    assert next(stream) + next(stream) == "la"
    stream.close()
    assert (stream.finish, list(stream), stream.text) == ("cancelled", [], "la")
    with model.stream("forever", max_new_tokens=900) as other:
        next(other)
    del stream, other
    left = model.stream("forever", max_new_tokens=900)
    next(left)
    del left  # never closed: it goes with whoever held it
    gc.collect()
    runner = talker.TalkingRuntime.runners[-1]
    assert not runner.running
    model.close()
    assert runner.closed


def test_streams_may_be_read_in_turn(model: LanguageModelHandle) -> None:
    first, second = model.stream("repeat abc"), model.stream("repeat uvwxyz")
    assert [next(first), next(second), next(second), next(first)] == ["a", "u", "v", "b"]
    assert model.generate("repeat whole")[0]["text"] == "whole"
    assert ("".join(second), "".join(first)) == ("wxyz", "c")


def test_threads_share_a_model(model: LanguageModelHandle) -> None:
    found: dict[int, str] = {}

    def ask(n: int) -> None:
        found[n] = "".join(model.stream(f"repeat {n} " + "x" * n)) if n % 2 else model.chat(f"repeat {n}")["text"]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: f"{n} " + "x" * n if n % 2 else str(n) for n in range(8)}


def test_an_error_of_the_runner_reaches_all_who_wait(
    model: LanguageModelHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = model.stream("repeat abc")
    next(stream)
    runner = talker.TalkingRuntime.runners[-1]

    def broken() -> Any:
        raise RuntimeError("no memory")
        yield

    other = model.stream("repeat uvw")
    next(other)
    model._shared[runner]._events = broken()
    with pytest.raises(RuntimeError, match="no memory"):
        list(stream)
    with pytest.raises(RuntimeError, match="no memory"):
        list(other)


def test_chat_takes_messages_or_one(model: LanguageModelHandle) -> None:
    messages = [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "history"},
    ]  # fmt: skip
    assert model.chat(messages)["text"] == "system: be brief; user: hi; assistant: hello"
    assert model.chat("hi")["text"] == "You said: hi"
    assert "".join(model.stream_chat(messages)) == model.chat(messages)["text"]
    assert last_request().stop == (talker.EOS,)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "the conversation: it has no message"),
        ([{"role": "assistant", "content": "a"}], "its last message is the assistant's, expected: one of the user's"),
        ([{"role": "usr", "content": "a"}], "message 0: unknown role 'usr'; did you mean 'user'?"),
        ([{"role": "user", "content": ["a"]}], "message 0: found {'role': 'user', 'content': ['a']}, expected: "),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "a"}], "message 1: the system's message comes first"),
        ([{"role": "user", "content": "forbidden"}], "the chat template refuses the conversation: forbidden"),
        ([{"role": "user", "content": "a" * 2000}], "the conversation: 2015 tokens leave no room for an answer in the model's 1000 positions"),
    ],
)  # fmt: skip
def test_conversations_that_cannot_be_answered(messages: list[Any], words: str, model: LanguageModelHandle) -> None:
    with pytest.raises(SlimPajamaError) as caught:
        model.chat(messages)
    assert words in str(caught.value)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)


def test_a_conversation_loses_its_oldest_turns_and_says_so(model: LanguageModelHandle) -> None:
    turns = [
        {"role": role, "content": f"{n} " + "x" * 90} for n in range(8) for role in ("user", "assistant")
    ]  # fmt: skip
    messages = [{"role": "system", "content": "stay"}, *turns, {"role": "user", "content": "history"}]
    with pytest.raises(SlimPajamaError, match="truncate=left"):
        model.chat(messages)
    found = model.chat(messages, truncate="left")
    left = found["left_out"]
    assert found["text"].startswith(f"system: stay; user: {left // 2} ")
    assert 0 < left < 16
    assert left % 2 == 0, "a turn is left out whole"
    kept = [messages[0], *turns[left:], messages[-1]]
    assert found["prompt_tokens"] == len(model._model.processor.chat(kept)) <= 1000 - 250 + 1
    with pytest.raises(
        SlimPajamaError,
        match=r"the last message of the conversation: \d+ tokens and 900 new ones .* Shorten it, lower max_new_tokens$",
    ):
        model.chat([*messages, {"role": "user", "content": "x" * 200}], truncate="left", max_new_tokens=900)
    longer = [messages[0], *turns[left - 2 :], messages[-1]]
    assert len(model._model.processor.chat(longer)) > 1000 - 250 + 1, "no more than must be"


def test_a_prompt_loses_its_beginning_and_says_so(model: LanguageModelHandle) -> None:
    prompt = "x" * 1500 + "end"
    (found,) = model.generate(prompt, truncate="left", max_new_tokens=200)
    assert (found["left_out"], found["prompt_tokens"]) == (1504 - 801, 801)
    assert last_request().ids[0] == talker.BOS, "what begins a text stays"
    assert last_request().ids[-3:] == tuple(b"end")
    assert "left_out" not in model.generate("short", truncate="left")[0]


def test_an_answer_has_what_room_is_left(model: LanguageModelHandle) -> None:
    model.generate("x" * 900)
    assert last_request().max_new_tokens == 100, "901 tokens are fed, the last new one is not"
    model.generate("x")
    assert last_request().max_new_tokens == 256
    with pytest.raises(SlimPajamaError, match="901 tokens and 101 new ones do not fit the model's 1000 positions"):
        model.generate("x" * 900, max_new_tokens=101)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temprature": 1}, "generate: unknown option 'temprature'; did you mean 'temperature'?"),
        ({"temperature": -1}, "generate: temperature: found -1, expected: a number at least 0 or null"),
        ({"temperature": "warm"}, "generate: temperature: found 'warm', expected: a number at least 0"),
        ({"top_p": 0.5}, "top_p 0.5: nothing is drawn at temperature 0; give temperature too"),
        ({"min_p": 0.5, "temperature": 0.0}, "min_p 0.5: nothing is drawn at temperature 0"),
        ({"beams": 2, "temperature": 1.0}, "beams 2: beam search draws nothing; leave temperature 1 out, or beams"),
        ({"length_penalty": 2.0}, "length_penalty 2.0: it is beam search's; give beams too"),
        ({"n": 2}, "n 2: at temperature 0 all 2 answers would be the same; give temperature, or beams of at least 2"),
        ({"stop": ["a", ""]}, "stop: found '', expected: text that is not empty"),
        ({"constraint": "regx"}, "unknown constraint 'regx'"),
        ({"truncate": "right"}, "truncate: found 'right', expected: 'left' or null"),
        ({"max_new_tokens": 1001}, "max_new_tokens 1001: the model has 1000 positions"),
        ({"preset": "nowhere.yaml"}, "preset 'nowhere.yaml' does not exist"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_honoured(given: dict[str, Any], words: str, model: LanguageModelHandle) -> None:
    """Before weights are read."""
    before = len(talker.TalkingRuntime.runners)
    with pytest.raises(SlimPajamaError) as caught:
        model.generate("x", **given)
    assert words in str(caught.value)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)
    assert len(talker.TalkingRuntime.runners) == before


def test_models_and_runtimes_that_write_nothing(registry: Registry) -> None:
    with pytest.raises(SlimPajamaError, match="'talker' reads a text from both sides, and writes none"):
        load_model("talker:encoder", runtime="talker", registry=registry).generate("x")
    with pytest.raises(SlimPajamaError, match=r"runtime 'mute' writes no text. Those that do: talker$"):
        load_model("talker:small", runtime="mute", registry=registry).generate("x")
    with pytest.raises(SlimPajamaError, match="the model has no chat template"):
        load_model("talker:base", runtime="talker", registry=registry).chat("x")


def test_a_model_says_how_it_is_to_be_asked(registry: Registry) -> None:
    """And what the caller says goes before it, with all that belongs to it."""
    handle = load_model("talker:drawing", runtime="talker", registry=registry)
    handle.generate("x")
    assert (last_request().temperature, last_request().top_k) == (0.5, 7)
    handle.generate("x", temperature=0.9)
    assert (last_request().temperature, last_request().top_k) == (0.9, 7)
    handle.generate("x", temperature=0.0)
    assert (last_request().temperature, last_request().top_k) == (0.0, 0)
    handle.generate("x", beams=3, n=2)
    assert (last_request().temperature, last_request().top_k, last_request().beams) == (0.0, 0, 3)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([], "generate: no prompt given"), (["a", 7], "prompt 1: found 7, expected: a text"),
        ("ab\ud800", "the prompt: character 2 is no text in UTF-8: half of a surrogate pair, or a stray byte"),
    ],
)  # fmt: skip
def test_prompts_that_are_no_text(prompts: Any, words: str, model: LanguageModelHandle) -> None:
    with pytest.raises(SlimPajamaError) as caught:
        model.generate(prompts)
    assert str(caught.value) == words


def test_a_preset_is_a_prompt_with_settings(model: LanguageModelHandle, tmp_path: Path) -> None:
    file = tmp_path / "short.yaml"
    file.write_text("prompt: 'repeat {text}, {text}!'\nmax_new_tokens: 9\nstop: '!'\n")
    assert model.generate(["one", "two"], preset=file)[1]["text"] == "two, two"
    assert "".join(model.stream("one", preset=file, max_new_tokens=4)) == "one,"
    talk = {"prompt": "history {text}", "chat": True, "system": "be brief"}
    assert model.generate("x", preset=talk)[0]["text"] == "system: be brief"
    assert model.generate(preset={"prompt": "repeat me"})[0]["text"] == "me"
    for wrong, words in (
        ({"promt": "x"}, "preset: unknown option 'promt'; did you mean 'prompt'?"),
        ({"prompt": "x"}, "its prompt has no place for a text ({text}), and 1 were given"),
    ):
        with pytest.raises(SlimPajamaError) as caught:
            model.generate("x", preset=wrong)
        assert words in str(caught.value)


def test_every_setting_has_an_option_on_the_command_line() -> None:
    from spcore.cli.writing import CONSTRAINT, SETTINGS

    assert {*SETTINGS, "n", "constraint"} == set(GenerationSettings.model_fields)
    assert set(CONSTRAINT) == {"constraint", "constraint_option"}
