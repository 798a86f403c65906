"""Files whole or not at all, folders that one run holds, and what a full disk says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spcore.errors import OutputError
from spcore.files import digest, disk_errors, locked, staged, write_text

HOLD = """
import sys
from pathlib import Path
from spcore.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds a folder until a line is written to it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holder(folder) as other:
        with pytest.raises(OutputError) as caught, locked(folder):
            pytest.fail("two runs write there")
        assert str(caught.value) == f"{folder}: another run is writing there. Give another output, or wait"
        assert (folder / ".lock").exists(), "whoever was refused leaves the holder's lock alone"
        other.communicate("go\n")
    with locked(folder):
        pass
    assert list(folder.iterdir()) == []


def test_a_killed_run_leaves_its_folder_free(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path):
        pass


def test_a_failed_run_leaves_its_folder_free(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in the run"), locked(tmp_path):
        raise ValueError("in the run")
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_taken_away_meanwhile_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened before the holder removed the file, locked after: it locks a file that nobody else will find."""
    import fcntl

    real = fcntl.flock

    def late(handle: int, how: int) -> None:
        (tmp_path / ".lock").unlink()
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(OutputError, match="another run is writing there"), locked(tmp_path):
        pytest.fail("the lock is on a file that is gone")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: "), locked(tmp_path / "file" / "run"):
        pass
    with pytest.raises(OutputError, match="cannot be written: "), locked(tmp_path / "file"):
        pass


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_text(path, "old ünï\n")
    assert path.read_bytes() == "old ünï\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_text_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")  # a lone surrogate has no UTF-8
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "folder", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "folder"]


def test_a_reader_sees_one_text_or_the_other(tmp_path: Path) -> None:
    path, texts = tmp_path / "a.txt", ["a" * 50_000, "b" * 50_000]
    write_text(path, texts[0])
    done = threading.Event()

    def write() -> None:
        for n in range(30):
            write_text(path, texts[n % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert path.read_text() in texts
    writer.join()


def test_staged_work_is_removed_whatever_happens(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with staged(target) as work:
        (work / "a").write_text("x")
        assert work.parent == target.parent, "on the same disk, so that it can be moved"
        assert work.stat().st_mode & 0o777 == 0o755
        work.rename(target)
    assert [p.name for p in target.parent.iterdir()] == ["model"]

    def fail() -> None:
        with staged(target) as work:
            (work / "a").write_text("y")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [p.name for p in target.parent.iterdir()] == ["model"]
    assert (target / "a").read_text() == "x"


@pytest.mark.parametrize(
    ("number", "words"),
    [(28, "no space left on the disk"), (13, "not writable"), (30, "read-only file system"), (5, "Input/output error")],
)
def test_errors_of_the_disk_are_one_line(number: int, words: str) -> None:
    with pytest.raises(OutputError) as caught, disk_errors(Path("run/model")):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == f"run/model: cannot be written: {words}"
    with pytest.raises(OutputError, match=r"^/else/where: cannot be written"), disk_errors(Path("run")):
        raise OSError(number, os.strerror(number), "/else/where")


def test_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
