"""Training state on disk: whole or not at all, found by its manifest, pruned when the new one is whole."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spcore import __version__, checkpoint
from spcore.checkpoint import CheckpointStore, verify
from spcore.errors import CheckpointError, OutputError


def write(store: CheckpointStore, step: int, text: str = "weights") -> Path:
    """A checkpoint of two files, one of them in a folder."""
    with store.writing(step, writer=True) as work:
        (work / "shards").mkdir()
        (work / "shards" / "0.safetensors").write_text(f"{text} {step}")
        (work / "progress.json").write_text(json.dumps({"step": step}))
    return store.path(step)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=3)


def names(store: CheckpointStore) -> list[str]:
    return sorted(p.name for p in store.folder.iterdir())


def test_a_checkpoint_and_its_manifest(store: CheckpointStore) -> None:
    assert (store.latest(), store.steps()) == (None, [])
    folder = write(store, 500)
    assert (folder.name, store.latest()) == ("step-00000500", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format"], manifest["step"]) == (2, 500)
    assert sorted(manifest["files"]) == ["progress.json", "shards/0.safetensors"]
    assert manifest["files"]["shards/0.safetensors"]["bytes"] == len("weights 500")
    assert names(store) == ["step-00000500"]


def test_the_manifest_is_written_last_and_after_the_files_are_synced(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        real(handle)
        seen.append((Path(os.readlink(f"/proc/self/fd/{handle}")).name, store.path(7).exists()))

    store.folder.mkdir()
    monkeypatch.setattr(os, "fsync", fsync)
    write(store, 7)
    assert sorted(seen[:2]) == [("0.safetensors", False), ("progress.json", False)]
    work = (".writing-00000007", False)
    assert seen[2:] == [("shards", False), work, ("manifest.json", False), work, ("checkpoints", True)], (
        "in place only when whole"
    )


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "manifest missing": (
        lambda f: (f / "manifest.json").unlink(),
        "manifest.json: missing; the checkpoint is not whole",
    ),
    "manifest torn": (lambda f: (f / "manifest.json").write_text('{"format": 1, "fi'), "manifest.json: cannot be read"),
    "manifest empty": (lambda f: (f / "manifest.json").write_text(""), "manifest.json: cannot be read"),
    "manifest of zeros": (lambda f: (f / "manifest.json").write_bytes(bytes(64)), "manifest.json: cannot be read"),
    "manifest of another shape": (
        lambda f: (f / "manifest.json").write_text("[]"),
        "manifest.json: cannot be read: found list, expected an object",
    ),
    "manifest without a format": (
        lambda f: (f / "manifest.json").write_text('{"step": 9}'),
        "manifest.json: cannot be read: format None: not written by slimpajama",
    ),
    "manifest without files": (
        lambda f: (f / "manifest.json").write_text('{"format": 1, "files": {}}'),
        "manifest.json: names no files",
    ),
    "manifest of half an entry": (
        lambda f: (f / "manifest.json").write_text('{"format": 1, "files": {"progress.json": {"bytes": 13}}}'),
        "progress.json: the manifest does not say what it should be",
    ),
    "manifest changed": (
        lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text().replace(": 13", ": 14")),
        "manifest.json: cannot be read: its checksum is not its content's",
    ),
    "a file that came after the manifest": (
        lambda f: (f / "late").write_text(""),
        "late: not in the manifest, which must be written last",
    ),
    "file missing": (lambda f: (f / "progress.json").unlink(), "progress.json: missing, the manifest says 13 bytes"),
    "file torn": (lambda f: (f / "progress.json").write_text("{"), "progress.json: 1 bytes, the manifest says 13"),
    "file damaged": (
        lambda f: (f / "shards/0.safetensors").write_text("weightz 300"),
        "shards/0.safetensors: its checksum is not the manifest's",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_is_named_and_passed_over(
    harm: str, store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = write(store, 200), write(store, 300)
    break_it, words = HARMS[harm]
    break_it(newer)
    assert store.latest() == older
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(str(newer))
    assert words in said
    verify(older)
    with pytest.raises(CheckpointError):
        verify(newer)
    break_it(older)
    with pytest.raises(
        CheckpointError, match=r"^no whole checkpoint in .*step-00000300.*\. Start anew with --overwrite$"
    ):
        store.latest()


def test_a_checkpoint_of_a_newer_version_is_refused_not_passed_over(store: CheckpointStore) -> None:
    write(store, 200)
    manifest = write(store, 300) / "manifest.json"
    manifest.write_text('{"format": 9, "version": "4.2"}')
    with pytest.raises(CheckpointError) as caught:
        store.latest()
    assert str(caught.value) == (
        f"{manifest}: format 9, written by slimpajama 4.2; this is {__version__}, which reads up to format 2. "
        "Install that version, or start anew with --overwrite"
    )


def test_zeros_before_a_step_do_not_count(store: CheckpointStore) -> None:
    store.keep = 9
    for step, name in ((9_900, "step-9900"), (10_000, "step-10000"), (800, "step-000000000800")):
        write(store, step).rename(store.folder / name)
    assert store.steps() == [800, 9_900, 10_000]
    assert store.latest() == store.folder / "step-10000"
    store.keep = 2
    write(store, 10_100)
    assert names(store) == ["step-00010100", "step-10000"]


def test_the_latest_is_the_highest_step_not_the_last_name(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=9)
    for step in (9_900, 10_000, 123_456_789, 99_999_999, 1_000_000_000):
        write(store, step)
    assert store.steps() == [9_900, 10_000, 99_999_999, 123_456_789, 1_000_000_000]
    latest = store.latest()
    assert latest is not None
    assert latest.name == "step-1000000000"


def test_other_entries_are_no_checkpoints(store: CheckpointStore) -> None:
    write(store, 5)
    for name in ("step-x", "step-7.old", ".writing-00000009", "best"):
        (store.folder / name).mkdir()
    (store.folder / "step-00000008").write_text("a file")
    assert store.steps() == [5]


def test_old_ones_are_deleted_when_the_new_one_is_whole(store: CheckpointStore) -> None:
    for step in (100, 200, 300):
        write(store, step)
    with store.writing(400, writer=True) as work:
        assert store.steps() == [100, 200, 300], "nothing is deleted beforehand"
        (work / "a").write_text("x")
    assert store.steps() == [200, 300, 400]


@pytest.mark.parametrize("keep", [1, 2])
def test_the_new_one_is_never_deleted_for_a_damaged_later_one(keep: int, tmp_path: Path) -> None:
    """The last save was damaged, the run went on from the one before and was stopped earlier than that."""
    store = CheckpointStore(tmp_path, keep)
    write(CheckpointStore(tmp_path, 9), 200)
    (write(CheckpointStore(tmp_path, 9), 300) / "progress.json").write_text("")
    new = write(store, 250)
    assert store.latest() == new
    assert store.steps() == ([250, 300] if keep == 1 else [200, 250, 300])
    write(store, 300)
    assert (store.latest(), store.steps()) == (store.path(300), [250, 300][-keep:])


def test_a_failed_write_leaves_what_was_there(store: CheckpointStore) -> None:
    old = write(store, 100)

    def fail() -> None:
        with store.writing(200, writer=True) as work:
            (work / "half").write_text("x")
            raise RuntimeError("engine")

    with pytest.raises(RuntimeError, match="engine"):
        fail()
    assert (names(store), store.latest()) == (["step-00000100"], old)


def test_a_killed_write_is_no_checkpoint_and_is_cleared_away(store: CheckpointStore) -> None:
    script = """
import os, sys
from pathlib import Path
from spcore import __version__
from spcore.checkpoint import CheckpointStore
with CheckpointStore(Path(sys.argv[1]), 3).writing(200, writer=True) as work:
    (work / "half").write_text("x")
    os._exit(9)
"""
    old = write(store, 100)
    assert subprocess.run([sys.executable, "-c", script, str(store.folder)], check=False).returncode == 9
    assert names(store) == [".writing-00000200", "step-00000100"]
    assert store.latest() == old
    write(store, 200)
    assert names(store) == ["step-00000100", "step-00000200"]
    assert not (store.path(200) / "half").exists()


def test_the_same_step_is_replaced_whole(store: CheckpointStore) -> None:
    write(store, 100, "first")
    folder = write(store, 100, "second")
    assert (folder / "shards/0.safetensors").read_text() == "second 100"
    assert (names(store), store.latest()) == (["step-00000100"], folder)


def test_ranks_write_into_one_folder_and_the_writer_makes_it_whole(store: CheckpointStore) -> None:
    with store.writing(10, writer=True) as mine:
        with store.writing(10, writer=False) as theirs:
            assert theirs == mine
            (theirs / "rank-1").write_text("b")
        assert store.steps() == [], "another rank's end makes nothing whole"
        (mine / "rank-0").write_text("a")
    assert sorted(json.loads((store.path(10) / "manifest.json").read_text())["files"]) == ["rank-0", "rank-1"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB; skips where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("no small disk can be mounted here; the limit on file sizes stands in for it below")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_line_and_leaves_the_old_checkpoint(tiny_disk: Path) -> None:
    store = CheckpointStore(tiny_disk / "checkpoints", keep=1)
    old = write(store, 100)
    with (
        pytest.raises(OutputError, match=r"^/.*: cannot be written: no space left on the disk$"),
        store.writing(200, writer=True) as work,
    ):
        (work / "large").write_bytes(bytes(200_000))
    assert (names(store), store.latest()) == (["step-00000100"], old)
    write(store, 300)
    assert store.steps() == [300]


def test_a_write_that_the_system_cuts_short_leaves_the_old_checkpoint(store: CheckpointStore) -> None:
    """By the limit on file sizes, which needs no rights: in a process of its own, as it cannot be taken back."""
    script = """
import resource, signal, sys
from pathlib import Path
from spcore import __version__
from spcore.checkpoint import CheckpointStore
from spcore.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    with CheckpointStore(Path(sys.argv[1]), 1).writing(200, writer=True) as work:
        (work / "large").write_bytes(bytes(200_000))
except OutputError as error:
    print(error)
"""
    old = write(store, 100)
    done = subprocess.run([sys.executable, "-c", script, str(store.folder)], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("cannot be written: File too large\n")
    assert done.stdout.count("\n") == 1
    assert (names(store), store.latest()) == (["step-00000100"], old)


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Flushing waits until this is set."""
    go, flushed = threading.Event(), checkpoint.sealed_files

    def sealed(*args: Any) -> Any:
        assert go.wait(30)
        return flushed(*args)

    monkeypatch.setattr(checkpoint, "sealed_files", sealed)
    return go


def test_the_rest_goes_on_beside_and_is_seen_when_whole(tmp_path: Path, held_back: threading.Event) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", 1)
    with store.writing(100, writer=True, later=[]) as work:
        (work / "state").write_text("100")
    assert not store.settled(wait=False)
    assert store.steps() == []
    held_back.set()
    assert store.settled()
    assert store.latest() == store.path(100)
    with store.writing(200, writer=True, later=[]) as work:
        (work / "state").write_text("200")
    assert store.settled()
    assert store.steps() == [200]
    assert [p.name for p in store.folder.iterdir()] == ["step-00000200"]


def test_what_the_rest_meets_is_raised_once_and_leaves_the_last_good_one(
    tmp_path: Path, held_back: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_back.set()
    store = CheckpointStore(tmp_path / "checkpoints", 1)
    with store.writing(100, writer=True) as work:
        (work / "state").write_text("100")

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "full", str(path))

    monkeypatch.setattr(checkpoint, "sync_file", full)
    with store.writing(200, writer=True, later=[]) as work:
        (work / "state").write_text("200")
    with pytest.raises(OutputError, match=r"manifest\.json: cannot be written: no space left on the disk"):
        store.settled()
    assert store.settled()
    assert [p.name for p in store.folder.iterdir()] == ["step-00000100"]
    assert store.latest() == store.path(100)
