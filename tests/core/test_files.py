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
from spcore.files import (
    alone,
    clear,
    digest,
    disk_errors,
    locked,
    newer_format,
    read_sealed,
    remove,
    replace_folder,
    sealed_files,
    sealed_text,
    staged,
    write_text,
)

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


def test_what_a_killed_process_staged_is_cleared_and_what_a_live_one_stages_is_not(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (tmp_path / ".writing-model").mkdir()
    (tmp_path / ".writing-model" / "left").write_text("x")
    with staged(target) as work:
        assert list(work.iterdir()) == []
        with pytest.raises(OutputError, match="another process is writing there"), staged(target):
            pytest.fail("two write in one place")
        assert work.is_dir(), "whoever was refused leaves it alone"
    with staged(tmp_path, inside=True) as work:
        assert work.parent == tmp_path


def test_a_json_object_with_its_own_checksum(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    content = {"a": [1, 0.1, None], "ü": {"x": "y"}}
    file.write_text(sealed_text(content))
    assert read_sealed(file) == content
    text = file.read_text()
    for n, letter in enumerate(text):
        flipped = text[:n] + chr(ord(letter) ^ 1) + text[n + 1 :]
        file.write_text(flipped)
        try:
            found = read_sealed(file)
        except ValueError:
            continue
        assert found == content or '"checksum"' not in flipped, "noticed, but for a harm to the name of the checksum"
    file.write_text('{"a": 1}')
    assert read_sealed(file) == {"a": 1}, "one that was written without"


def test_formats() -> None:
    assert newer_format({"format": 1}, 2) is newer_format({"format": 2}, 2) is None
    assert "written by a newer" not in str(newer_format({"format": 3, "version": "5.0"}, 2))
    assert str(newer_format({"format": 3, "versions": {"slimpajama": "5.0"}}, 2)).startswith(
        "format 3, written by slimpajama 5.0; this is "
    )
    for wrong in ({}, {"format": "1"}, {"format": 0}, {"format": -1}):
        with pytest.raises(ValueError, match="not written by slimpajama"):
            newer_format(wrong, 2)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_anothers_place(exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr("spcore.files._exchanged", lambda one, other: False)
    target = tmp_path / "target"
    for content in ("first", "second"):
        work = tmp_path / ".writing-target"
        work.mkdir()
        (work / "a").write_text(content)
        replace_folder(work, target)
        assert (target / "a").read_text() == content
        assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_files_are_described_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_text("abc")
    assert sealed_files(folder) == {"deep/a": {"bytes": 3, "sha256": digest(folder / "deep" / "a")}}
    (tmp_path / "link").symlink_to(folder)
    remove(tmp_path / "link")
    assert folder.is_dir(), "a link is removed, not what it points to"
    remove(folder)
    remove(tmp_path / "nothing")
    clear(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_one_waits_for_another_to_leave_a_folder(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with alone(tmp_path):
            order.append("second")

    with alone(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        order.append("first")
    other.join()
    assert order == ["first", "second"]
