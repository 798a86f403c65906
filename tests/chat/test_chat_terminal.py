"""`slimpajama chat` in a real terminal: a pseudo-terminal, and a screen that its output is drawn on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import pexpect
import pyte
import pytest
from talking_shell import CHAT, ENDLESS


class Terminal:
    """The command in a terminal of 80 columns, 24 lines."""

    def __init__(self, shell: dict[str, str], folder: Path, *options: str) -> None:
        self.size = (24, 80)
        self.screen = pyte.Screen(80, 24)
        self.stream = pyte.Stream(self.screen)
        self.process = pexpect.spawn(
            CHAT[0],
            [*CHAT[1:], *(() if "talker:endless" in options else ("talker:small",)), *options],
            env=shell,
            cwd=str(folder),
            encoding="utf-8",
            timeout=30,
            dimensions=self.size,
        )
        self.until("/help")
        self.until("\r\n> ")

    def until(self, words: str) -> str:
        """Read until these words; what was there before them."""
        self.process.expect_exact(words)
        before = str(self.process.before)
        self.stream.feed(before + words)
        return before

    def say(self, line: str) -> str:
        """Type a line; what is answered before the next prompt."""
        self.process.sendline(line)
        self.until(line[-1] + "\r\n")
        return self.until("> ").replace("\r\n", "\n").rstrip("\n")

    def end(self) -> int:
        """Its exit code."""
        self.process.expect(pexpect.EOF)
        self.stream.feed(str(self.process.before))
        self.process.close()
        return int(self.process.exitstatus if self.process.exitstatus is not None else -self.process.signalstatus)


@pytest.fixture
def terminal(shell: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def begin(*options: str) -> Terminal:
        opened.append(Terminal(shell, tmp_path, *options))
        return opened[-1]

    yield begin
    for one in opened:
        one.process.close(force=True)


def test_a_conversation_is_remembered_forgotten_saved_and_taken_up(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    talk = terminal()
    assert "You said: hello" in talk.say("hello")
    assert "user: hello; assistant: You said: hello" in talk.say("history")
    assert "the system's message is set" in talk.say("/system be brief")
    assert "system: be brief; user: hello" in talk.say("history")
    assert "messages in said.json" in talk.say("/save said.json")
    saved = json.loads((tmp_path / "said.json").read_text())
    assert (saved["system"], saved["messages"][0]) == ("be brief", {"role": "user", "content": "hello"})
    assert "forgotten" in talk.say("/reset")
    assert talk.say("history") == "system: be brief"
    talk.process.sendline("/quit")
    assert talk.end() == 0
    again = terminal("--load", "said.json")
    assert "user: hello; assistant: You said: hello" in again.say("history")
    again.process.sendeof()
    assert again.end() == 0


def test_ctrl_c_stops_an_answer_and_what_was_said_stays(terminal: Callable[..., Terminal]) -> None:
    talk = terminal(*ENDLESS)
    talk.process.sendline("forever")
    talk.until("la la la")
    talk.process.sendintr()
    talk.until("(stopped)")
    talk.until("> ")
    assert "user: forever; assistant: la la la" in talk.say("history")
    assert "You said: fine" in talk.say("fine"), "it goes on as if nothing had been"


def test_ctrl_c_at_the_prompt_leaves_at_the_second_time(terminal: Callable[..., Terminal]) -> None:
    talk = terminal()
    talk.process.send("half a li")
    talk.until("half a li")
    talk.process.sendintr()
    talk.until("(Ctrl-C again, Ctrl-D or /quit leaves)")
    talk.until("> ")
    assert talk.say("whole") == "You said: whole", "the half line is gone, and the first Ctrl-C forgotten"
    talk.process.sendintr()
    talk.until("> ")
    talk.process.sendintr()
    assert talk.end() == 0


def test_ctrl_c_before_an_answer_begins_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While a conversation is made ready, or a command is carried out, there is no answer yet that could stop."""
    from spcore.cli import repl

    class Interrupted:
        model, settings, messages = "a model", MappingProxyType({}), ()
        asked: ClassVar[list[str]] = []

        def prepare(self) -> None: ...

        def ask(self, text: str) -> None:
            self.asked.append(text)
            raise KeyboardInterrupt

    lines = iter(["one", "two"])

    def typed(prompt: str) -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", typed)
    repl.talk(Interrupted())  # type: ignore[arg-type]
    assert Interrupted.asked == ["one", "two"]
    assert capsys.readouterr().out.count("(stopped)") == 2


def test_another_answer(terminal: Callable[..., Terminal]) -> None:
    talk = terminal("--seed", "5")
    assert talk.say("/retry") == "error: /retry: nothing was asked yet"
    assert talk.say("drawn") == "number 5"
    assert talk.say("/retry") == "number 6"
    assert talk.say("history") == "user: drawn; assistant: number 6"


def test_greedy_answers_are_not_asked_twice(terminal: Callable[..., Terminal]) -> None:
    talk = terminal("--temperature", "0")
    talk.say("hello")
    assert "nothing is drawn at temperature 0" in talk.say("/retry")


def test_mistakes_are_one_line_and_leave_everything_as_it_was(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    talk = terminal()
    talk.say("hello")
    assert "error: unknown command '/rest'; did you mean '/reset'?" in talk.say("/rest")
    assert "error: /save: no file named" in talk.say("/save")
    assert "is there, and no conversation" in talk.say("/save notes.txt")
    assert "error: the chat template refuses the conversation: forbidden" in talk.say("forbidden words")
    assert "forbidden" in talk.say("/system forbidden")
    assert talk.say("history") == "user: hello; assistant: You said: hello"
    assert talk.say("//reset") == "You said: /reset"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_help_tells_every_command(terminal: Callable[..., Terminal]) -> None:
    from spcore.cli.conversation import COMMANDS, OTHERS

    said = terminal().say("/help")
    assert all(name in said for name in (*COMMANDS, *OTHERS, "Ctrl-C"))


def test_several_lines_are_one_message(terminal: Callable[..., Terminal]) -> None:
    talk = terminal()
    talk.process.sendline('"""repeat one')
    talk.until("... ")
    talk.process.sendline('two"""')
    talk.until("one\r\ntwo\r\n")


def test_lines_are_edited_and_called_back(terminal: Callable[..., Terminal]) -> None:
    talk = terminal()
    talk.process.send("repeat 世界x\x7f!")
    talk.process.sendline("")
    talk.until("\n世界!\r\n> ")
    talk.process.send("\x1b[A")  # up
    talk.until("repeat 世界!")
    talk.process.sendline("")
    talk.until("\n世界!\r\n> ")
    talk.process.send("/sy\tbe brief")
    talk.process.sendline("")
    talk.until("the system's message is set")


def test_the_window_may_change_its_size(terminal: Callable[..., Terminal]) -> None:
    """While a line is typed, and in mid-answer."""
    talk = terminal(*ENDLESS)
    talk.process.send("repeat " + "a" * 60)
    talk.until("a" * 60)
    talk.process.setwinsize(12, 40)
    talk.screen.resize(12, 40)
    talk.process.send("b" * 20)
    talk.process.sendline("")
    talk.until("a" * 60 + "b" * 20 + "\r\n> ")
    talk.process.sendline("forever")
    talk.until("la la la")
    talk.process.setwinsize(30, 100)
    talk.screen.resize(30, 100)
    talk.until("la la la")
    talk.process.sendintr()
    talk.until("(stopped)\r\n> ")
    assert talk.say("fine") == "You said: fine"
    shown = [line.rstrip() for line in talk.screen.display]
    assert shown[talk.screen.cursor.y - 1] == "You said: fine"


def test_what_a_model_says_is_not_carried_out(terminal: Callable[..., Terminal]) -> None:
    talk = terminal()
    talk.process.sendline("/system x")
    talk.until("> ")
    talk.process.send("repeat a\x16\x1b[2Jb")  # Ctrl-V: the next one as it is
    talk.process.sendline("")
    assert "a\N{REPLACEMENT CHARACTER}[2Jb" in talk.until("b\r\n> ") + "b"


def test_a_closed_terminal_ends_it(terminal: Callable[..., Terminal]) -> None:
    talk = terminal(*ENDLESS)
    talk.process.sendline("forever")
    talk.until("la la")
    talk.process.kill(signal.SIGHUP)
    assert talk.end() == -signal.SIGHUP
