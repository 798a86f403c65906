"""`slimpajama chat` and `generate` without a terminal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from talking_shell import CHAT, ENDLESS

Done = subprocess.CompletedProcess[str]


def chat(shell: dict[str, str], said: str, *options: str, cwd: Path | None = None) -> Done:
    return subprocess.run(
        [*CHAT, "talker:small", *options],
        input=said,
        capture_output=True,
        text=True,
        check=False,
        env=shell,
        cwd=cwd,
        timeout=60,
    )


def generate(shell: dict[str, str], *words: str, said: str = "", cwd: Path | None = None) -> Done:
    command = [sys.executable, "-m", "slimpajama", "generate", "talker:small", "--runtime", "talker", *words]
    return subprocess.run(
        command, input=said, capture_output=True, text=True, check=False, env=shell, cwd=cwd, timeout=60
    )


def test_a_message_a_line(shell: dict[str, str]) -> None:
    done = chat(shell, "hello\n\nrepeat 世界\n/system be brief\nhistory\n/reset\nhistory\n", "--temperature", "0")
    assert (done.returncode, done.stdout.splitlines()) == (
        0, ["You said: hello", "世界", "system: be brief; user: hello; assistant: You said: hello; user: repeat 世界; assistant: 世界", "system: be brief"],
    )  # fmt: skip
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.splitlines() == ["the system's message is set", "forgotten; the system's message stays"]


def test_the_last_line_needs_no_end(shell: dict[str, str]) -> None:
    assert chat(shell, "hello").stdout == "You said: hello\n"
    assert chat(shell, "").stdout == ""


def test_a_mistake_in_a_pipe_ends_it(shell: dict[str, str]) -> None:
    done = chat(shell, "hello\n/rest\nhello\n")
    assert (done.returncode, done.stdout) == (2, "You said: hello\n")
    assert done.stderr.startswith("error: unknown command '/rest'; did you mean '/reset'?")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--temperature", "-1"), "chat: temperature: found -1.0, expected: a number at least 0"),
        (("--system", "forbidden"), "the chat template refuses the conversation: forbidden"),
        (("--load", "none.json"), "none.json: cannot be read as a saved conversation"),
        (("--template", "chatml"), "unknown"),
        (("--constraint-option", "a=b"), "--constraint-option goes with --constraint"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_read(
    options: tuple[str, ...], words: str, shell: dict[str, str]
) -> None:
    done = chat(shell, "hello\n", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_no_longer_fits_is_left_out_and_told(shell: dict[str, str]) -> None:
    said = "".join(f"{n} {'x' * 200}\n" for n in range(4)) + "history\n"
    done = chat(shell, said, "--max-new-tokens", "300")
    assert done.returncode == 0
    assert "messages no longer fit, and were left out)" in done.stderr
    assert not done.stdout.splitlines()[-1].startswith("user: 0")


def test_one_prompt_is_printed_as_it_is(shell: dict[str, str]) -> None:
    done = generate(shell, "repeat 世界\x1b[2J\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "世界\x1b[2J\n", "")
    done = generate(shell, "repeat abc", "--echo", "--max-new-tokens", "2")
    assert (done.stdout, done.stderr) == ("repeat abcab\n", "(ended by --max-new-tokens or the model's room)\n")


def test_prompts_from_standard_input_are_one(shell: dict[str, str]) -> None:
    assert generate(shell, "-", said="repeat a\nb").stdout == "a\nb\n"


def test_several_prompts(shell: dict[str, str], tmp_path: Path) -> None:
    done = generate(shell, "one", "two")
    assert done.stdout == "== 1 of 2 (stop) ==\nYou said: one\n\n== 2 of 2 (stop) ==\nYou said: two\n"
    done = generate(shell, "drawn", "--n", "2", "--temperature", "1", "--seed", "7", "--json")
    assert [(row["text"], row["sample"], row["seed"]) for row in json.loads(done.stdout)] == [
        ("number 7", 0, 7), ("number 8", 1, 7),
    ]  # fmt: skip
    (tmp_path / "in.jsonl").write_text('{"prompt": "one"}\n{"prompt": "repeat two"}\n')
    for option in ("--input", "--data"):
        done = generate(shell, option, "in.jsonl", "--output", "out.jsonl", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "2 answers in out.jsonl\n")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["text"]) for row in rows] == [("one", "You said: one"), ("repeat two", "two")]


def test_presets_and_chat(shell: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text("prompt: 'repeat {text}!'\nmax_new_tokens: 3\n")
    assert generate(shell, "--preset", "short.yaml", "abcdef", cwd=tmp_path).stdout == "abc\n"
    assert (
        generate(shell, "--preset", "short.yaml", "abcdef", "--max-new-tokens", "9", cwd=tmp_path).stdout == "abcdef!\n"
    )
    assert generate(shell, "--chat", "--system", "be brief", "history").stdout == "system: be brief\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "generate: no prompt given"),
        (("x", "--input", "y.txt"), "generate: give prompts or --input, not both"),
        (("x", "--system", "y"), "--system goes with --chat"),
        (("x", "--echo", "--json"), "--echo is for people"),
        (("x", "--preset", "none.yaml"), "preset 'none.yaml' does not exist"),
        (("x", "--top-p", "0.5"), "top_p 0.5: nothing is drawn at temperature 0"),
        (("x", "--stop", ""), "stop: found '', expected: text that is not empty"),
        (("x", "--stop", "\udcff"), "stream: stop: character 0 is no text in UTF-8"),
        (("x", "--preset", "p" * 300), "cannot be read: File name too long"),
        (("x", "--json", "--output", "y.jsonl"), "--json prints, and --output writes JSON lines"),
        (("x", "--min-new-tokens", "5", "--max-new-tokens", "2"), "min_new_tokens is 5, expected 0 to 2"),
        (("x", "--beams", "2", "--top-p", "0.5"), "top_p 0.5: beam search draws nothing; leave it out, or beams 2"),
        (("x" * 1001,), "truncate=left"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], said: str, shell: dict[str, str]) -> None:
    done = generate(shell, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_where_answers_cannot_be_written_none_are_made(shell: dict[str, str], tmp_path: Path) -> None:
    for place, words in ((tmp_path, "is a folder"), ("/proc/nowhere/x", "cannot be written")):
        done = generate(shell, "forever", "--max-new-tokens", "900", "--output", str(place))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [("generate", "-"), ("chat",)])
def test_bytes_that_are_no_text_are_refused(command: tuple[str, ...], shell: dict[str, str]) -> None:
    """Whatever the shell's language has Python do with them."""
    name, *words = command
    done = subprocess.run(
        [sys.executable, "-m", "slimpajama", name, "talker:small", "--runtime", "talker", *words],
        input=b"ab\xff\n", capture_output=True, check=False, env={**shell, "PYTHONIOENCODING": "utf-8:strict"}, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"character 2 is no text in UTF-8" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_what_the_shells_language_lacks_is_written_out(shell: dict[str, str]) -> None:
    latin = {**shell, "PYTHONIOENCODING": "latin-1"}
    assert generate(latin, "repeat 世!").stdout == "\\u4e16!\n"
    assert json.loads(generate(latin, "repeat 世!", "--json").stdout)[0]["text"] == "世!"


def test_a_conversation_is_saved_under_any_name_or_refused(shell: dict[str, str], tmp_path: Path) -> None:
    assert chat(shell, "hello\n/save ~no such user\n", cwd=tmp_path).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["~no such user"]
    for name, code, words in (("s" * 300, 1, "File name too long"), ("a\0b", 2, "no file named")):
        done = chat(shell, f"/save {name}\n", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1)
        assert words in done.stderr


def test_ctrl_c_ends_what_is_written(shell: dict[str, str]) -> None:
    command = [sys.executable, "-m", "slimpajama", "generate", *ENDLESS, "forever", "--runtime", "talker"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=shell) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == "la la"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().endswith("\n")
        assert process.stderr.read() == ""
    assert process.returncode == 130
