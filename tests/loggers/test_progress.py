"""Logger `progress`, told to a stream and, in child processes, to a pseudo-terminal."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from logger_events import begun, judged, over, saved, step, warned, whole_run

from spcore.interfaces.logger import Event
from spcore_loggers.options import ProgressOptions
from spcore_loggers.progress import Progress

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def told(events: Sequence[Event], every: int = 0) -> list[str]:
    """The lines that a stream which is no terminal gets."""
    stream = io.StringIO()
    logger = Progress(ProgressOptions(every=every), stream)
    logger.start(None, {})
    for event in events:
        logger.event(event)
    logger.close()
    return stream.getvalue().splitlines()


def test_a_stream_that_is_no_terminal_gets_few_lines() -> None:
    assert told(whole_run()) == [
        "100 steps over 1,600 rows, 22.7 M parameters; device: cpu; columns: text=text",
        "warning: 3 rows dropped [no text] :warning:",
        "step 50  accuracy 0.7812  f1 0.8  (best so far)",
        "finished at step 100 after 1:05, 790 rows/s; saved in runs/a",
    ]


def test_every_adds_lines_for_steps() -> None:
    lines = told(whole_run(), every=40)
    assert [line for line in lines if "left" in line] == [
        "step 40  loss 0.025  lr 2.00e-05  812 rows/s  30 s left",
        "step 80  loss 0.0125  lr 2.00e-05  812 rows/s  10 s left",
    ]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (begun(rows=None, features=None, facts={}), "100 steps, 22.7 M parameters"),
        (begun(features=2000, facts={}), "100 steps over 1,600 rows (2,000 features), 22.7 M parameters"),
        (begun(trainable=41_000, facts={}), "100 steps over 1,600 rows, 22.7 M parameters (41,000 trained)"),
        (begun(start_step=40, facts={}), "100 steps over 1,600 rows, 22.7 M parameters, going on after step 40"),
        (judged(3, metrics={"loss": float("nan"), "perplexity": float("inf")}), "step 3  loss nan  perplexity inf"),
        (judged(3, metrics={"rows": 12346.0, "perplexity": 54321.9}), "step 3  rows 12,346  perplexity 54,322"),
        (over(0, status="failed", seconds=0, rows_per_second=0, error="out of memory\nline two"),
         "failed at step 0 after 0.0 s: out of memory line two"),
        (over(7, status="cancelled", seconds=90_061, rows_per_second=0.42), "cancelled at step 7 after 1 d 01:01:01, 0.4 rows/s"),
    ],
)  # fmt: skip
def test_one_line_an_event(event: Event, line: str) -> None:
    assert told([event]) == [line]


def test_a_step_s_odd_figures() -> None:
    odd = step(5, loss=float("nan"), lr=0.0, rows_per_second=0.0, eta=float("inf"), applied=False)
    assert told([odd], every=5) == ["step 5  loss nan  lr 0.00e+00  0 rows/s  ? left  left out"]


def test_a_checkpoint_is_no_news_for_a_log() -> None:
    assert told([saved(50, "runs/a/checkpoints/step-00000050")]) == []


def test_a_long_line_stays_one_line() -> None:
    assert told([warned("x" * 500)]) == ["warning: " + "x" * 500]


def test_stderr_is_the_one_that_start_finds(capsys: pytest.CaptureFixture[str]) -> None:
    logger = Progress(ProgressOptions())
    with contextlib.redirect_stderr(io.StringIO()) as swapped:
        logger.start(None, {})
        logger.event(warned("here"))
        logger.close()
    assert swapped.getvalue() == "warning: here\n"
    assert capsys.readouterr() == ("", "")


def test_a_process_without_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    logger = Progress(ProgressOptions())
    logger.start(None, {})
    for event in whole_run():
        logger.event(event)
    logger.close()
    assert capsys.readouterr().out == ""


def test_a_stream_that_was_closed() -> None:
    stream = io.StringIO()
    logger = Progress(ProgressOptions(), stream)
    logger.start(None, {})
    stream.close()
    for event in whole_run():
        logger.event(event)
    logger.close()


# -- child processes ---------------------------------------------------------------------------------------------------

PRELUDE = """
import sys, threading, time
sys.path[:0] = {path!r}
from logger_events import *
from spcore_loggers.options import ProgressOptions
from spcore_loggers.progress import Progress

def run(events, pause=0.0):
    logger = Progress(ProgressOptions())
    try:
        logger.start(None, {{}})
        for event in events:
            if isinstance(event, Exception):
                raise event
            logger.event(event)
            time.sleep(pause)
    finally:
        logger.close()
"""


def child(code: str, stderr: int, **environment: str) -> subprocess.Popen[str]:
    """Run code beside the prelude with `stderr` as its stderr."""
    path = [str(Path(__file__).parent), *sys.path]
    drop = {"FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR", "COLUMNS", "LINES"}
    kept = {name: value for name, value in os.environ.items() if name not in drop}
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE.format(path=path) + code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**kept, "TERM": "xterm-256color", **environment},
        start_new_session=True,
    )


def on_terminal(code: str, **environment: str) -> tuple[str, str, int]:
    """(what the pseudo-terminal showed, stdout, exit status)."""
    master, slave = pty.openpty()
    process = child(code, slave, **{"COLUMNS": "100", **environment})
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while chunk := os.read(master, 65536):
            shown += chunk
    os.close(master)
    out, _ = process.communicate(timeout=60)
    return shown.decode(), out, process.returncode


def pieces(shown: str) -> list[str]:
    """What was written between line ends and cursor movements, without colours."""
    plain = re.sub(r"\x1b\[[0-9;?]*m", "", shown)
    return [piece for piece in re.split(r"[\r\n]+|\x1b\[[0-9;?]*[A-Zhl]", plain) if piece.strip()]


def bars(shown: str) -> list[str]:
    return [piece for piece in pieces(shown) if re.search(r"\d+/\d+", piece)]


def test_a_terminal_gets_a_bar() -> None:
    shown, out, status = on_terminal("run(whole_run(20), pause=0.02)")
    assert (out, status) == ("", 0)
    assert any(
        re.fullmatch(r"[━╸╺ ]{16} \d+/20 +loss [\d.]+  lr 2\.00e-05  812 rows/s  \d+ s left *", bar)
        for bar in bars(shown)
    ), bars(shown)
    lines = [line.strip() for line in pieces(shown)]
    for line in (
        "20 steps over 1,600 rows, 22.7 M parameters; device: cpu; columns: text=text",
        "warning: 3 rows dropped [no text] :warning:",
        "step 10  accuracy 0.7812  f1 0.8  (best so far)",
        "step 10  checkpoint saved: runs/a/checkpoints/step-00000010",
        "finished at step 20 after 1:05, 790 rows/s; saved in runs/a",
    ):
        assert lines.count(line) == 1, line
    assert shown.count(HIDE) == shown.count(SHOW) == 1


@pytest.mark.parametrize("columns", [20, 40, 79, 80])
def test_a_bar_fits_its_terminal(columns: int) -> None:
    """One line, since a bar that wraps could not be drawn over: in a narrow terminal the figures are cut, never the counter."""
    shown, _, status = on_terminal("run(whole_run(20), pause=0.02)", COLUMNS=str(columns))
    assert status == 0
    drawn = bars(shown)
    assert any("20/20" in bar for bar in drawn)
    assert max(map(len, drawn)) <= columns
    assert [piece for piece in pieces(shown) if re.search("lr [2…]|rows/s |s left", piece) and piece not in drawn] == []
    assert any("━" in bar for bar in drawn) == (columns >= 80)
    assert ("…" in "".join(drawn)) == (columns < 79), "all figures fit the usual width"


def test_a_resumed_run_s_bar_starts_where_it_goes_on() -> None:
    shown, _, _ = on_terminal("run([begun(start_step=40), over(40)], pause=0.2)")
    assert bars(shown)[0].rstrip().endswith(" 40/100")


def test_a_failure_gives_the_terminal_back() -> None:
    code = "run([begun(), step(1), ValueError('broken')], pause=0.05)"
    shown, _, status = on_terminal(code)
    assert status == 1
    assert shown.index(HIDE) < shown.rindex(SHOW) < shown.index("Traceback")
    assert HIDE not in shown[shown.rindex(SHOW) :]


def test_the_end_of_a_run_takes_the_bar_away() -> None:
    """Before the logger is closed: the caller may have more to say first."""
    code = (
        "def late():\n    yield begun(); yield over(1); print('later', file=sys.stderr); yield warned('x')\nrun(late())"
    )
    shown, _, _ = on_terminal(code)
    assert shown.index(SHOW) < shown.index("finished at step 1 ") < shown.index("later")


def test_what_a_program_prints_stays_on_its_stdout() -> None:
    code = (
        "logger = Progress(ProgressOptions()); logger.start(None, {}); before = sys.stdout, sys.stderr\n"
        "logger.event(begun()); assert (sys.stdout, sys.stderr) == before\n"
        "print('data'); logger.event(step(1)); logger.close()\n"
        "rest = [t for t in threading.enumerate() if t is not threading.main_thread()]\n"
        "[t.join(30) for t in rest]; assert not any(t.is_alive() for t in rest)\n"  # told to end, not waited for
    )
    shown, out, status = on_terminal(code)
    assert (out, status) == ("data\n", 0)
    assert "data" not in shown


def test_two_runs_in_two_threads() -> None:
    code = (
        "threads = [threading.Thread(target=run, args=(whole_run(n), 0.01)) for n in (20, 30)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    shown, _, status = on_terminal(code)
    assert status == 0
    assert "Traceback" not in shown
    for steps in (20, 30):
        assert shown.count(f"finished at step {steps} ") == 1
    assert shown.count(HIDE) == shown.count(SHOW) == 2


def test_a_second_start_of_a_run_replaces_the_bar() -> None:
    """A launcher may start a run again."""
    shown, _, status = on_terminal("run([begun(), step(1), begun(start_step=1), step(2), over(2)], pause=0.02)")
    assert status == 0
    assert shown.count(HIDE) == shown.count(SHOW) == 2


def test_a_dumb_terminal_gets_lines() -> None:
    shown, _, _ = on_terminal("run(whole_run(20))", TERM="dumb")
    assert "\x1b" not in shown
    assert len(pieces(shown)) == 4


def test_ci_s_forced_colours_make_no_bars() -> None:
    process = child("run(whole_run(20))", subprocess.PIPE, FORCE_COLOR="1")
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 4


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_a_run_outlives_its_terminal(kind: str, tmp_path: Path) -> None:
    """A closed connection, or `2>&1 | head`, ends what is shown, not the run."""
    near, far = pty.openpty() if kind == "terminal" else os.pipe()
    gone, done = tmp_path / "gone", tmp_path / "done"
    code = (
        "from pathlib import Path\n"
        "def waiting():\n"
        "    yield begun(); yield step(1)\n"
        f"    while not Path({str(gone)!r}).exists(): time.sleep(0.01)\n"
        "    yield from whole_run(20)[1:]\n"
        f"run(waiting(), pause=0.01); Path({str(done)!r}).touch()\n"
    )
    process = child(code, far)
    os.close(far)
    assert os.read(near, 1)
    os.close(near)
    gone.touch()
    process.communicate(timeout=60)
    assert done.exists()
    assert process.returncode == 0


def test_the_bar_costs_little() -> None:
    """Telling a step draws nothing: a thread does, ten times a second."""
    code = (
        "logger = Progress(ProgressOptions()); logger.start(None, {}); logger.event(begun(steps=10**6))\n"
        "events = [step(n) for n in range(1, 2001)]; at = time.process_time()\n"
        "[logger.event(event) for event in events]; print((time.process_time() - at) / 2000); logger.close()\n"
    )
    _, out, status = on_terminal(code)
    assert status == 0
    assert float(out) < 0.002  # [seconds a step]
