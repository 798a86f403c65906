"""Disks that really refuse: full, read-only, without locks. A test's name says which way it was done here."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crash.fake_runs import made, recipe, registry_of_fakes
from crash.test_checkpoint_faults import save, value_of
from spcore.checkpoint import CheckpointStore
from spcore.cli import main
from spcore.errors import OutputError
from spcore.interfaces.logger import Warned
from spcore.running import execute
from spcore_loggers.jsonl import Jsonl
from support.hub_content import put_tiny_bert

ROWS = [{"text": f"a {word} film", "label": label} for word, label in (("good", "yes"), ("bad", "no"))] * 8
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
del sys.argv[:2]
from spcore.cli import main
main()
"""


class Disk:
    """A folder on a disk of so many bytes; `limit` changes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def limit(self, size: int) -> None:
        """For what is written from now on."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A tmpfs of its own; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("no tmpfs can be mounted here; RLIMIT_FSIZE stands in for it")
    yield Disk(folder)
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small BERT and rows for it."""
    root = tmp_path_factory.mktemp("files")
    put_tiny_bert(root, "t", [row["text"] for row in ROWS], hidden_size=16, layers=1, heads=2, max_length=64)
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return root


def command(files: Path, output: Path) -> list[str]:
    return [
        "slimpajama", "finetune", str(files / "models" / "t"), "--task", "text-classification", "--data", str(files / "rows.jsonl"),
        "--output", str(output), "--set", "train.global_batch_size=4", "--set", "train.save_every=2", "--set", "loggers=[]",
    ]  # fmt: skip


def error_in(stderr: str) -> str:
    """The one line that says what broke."""
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return line


def test_a_full_disk_at_every_page_tmpfs(disk: Disk) -> None:
    """From a disk that holds nothing to one that holds a second checkpoint: whoever writes, in Python or not, is met by the end."""
    store = CheckpointStore(disk.folder / "checkpoints", keep=1)
    names = set()
    save(store, 100)
    used = sum(p.stat().st_blocks * 512 for p in disk.folder.rglob("*") if p.is_file())
    for pages in range(100):
        disk.limit(used + pages * 4096)
        try:
            save(store, 200)
        except OutputError as error:
            said = str(error)
            assert said.endswith(": cannot be written: no space left on the disk")
            names.add(Path(said.partition(": ")[0]).name)
            assert [p.name for p in store.folder.iterdir()] == ["step-00000100"]
            assert value_of(store.path(100)) == 100
        else:
            break
    assert names == {"rank-00000.safetensors", "rank-00001.safetensors", "progress.json", "manifest.json"}
    assert [p.name for p in store.folder.iterdir()] == ["step-00000200"]


def test_a_run_whose_disk_is_full_is_one_line_and_goes_on_when_there_is_room_tmpfs(
    files: Path, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(output: Path) -> int:
        monkeypatch.setattr(sys, "argv", command(files, output))
        try:
            main()
        except SystemExit as left:
            return int(left.code or 0)
        return 0

    whole, part = tmp_path / "whole", disk.folder / "run"
    assert run(whole) == 0
    figures = capsys.readouterr().out
    checkpoint = sum(p.stat().st_size for p in next((whole / "checkpoints").iterdir()).iterdir())
    disk.limit(checkpoint * 2)
    assert run(part) == 1
    said = error_in(capsys.readouterr().err)
    assert said.startswith(f"error: {part / 'checkpoints'}/.writing-")
    assert said.endswith("cannot be written: no space left on the disk")
    store = CheckpointStore(part / "checkpoints", keep=2)
    assert store.latest() == store.path(2)
    disk.limit(checkpoint * 20)
    assert run(part) == 0
    assert capsys.readouterr().out.replace(str(part), "") == figures.replace(str(whole), "")
    assert (part / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_full_disk_leaves_no_half_line_in_metrics_tmpfs(disk: Disk) -> None:
    logger = Jsonl()
    logger.start(disk.folder, {})
    disk.limit(4096)
    told = []

    def fill() -> None:
        while True:
            logger.event(Warned(time=0.0, message="x" * 100))
            told.append(1)

    with pytest.raises(OutputError, match=r"metrics\.jsonl: cannot be written: no space left on the disk$"):
        fill()
    disk.limit(8192)
    logger.event(Warned(time=0.0, message="there is room again"))
    logger.close()
    lines = [json.loads(line) for line in (disk.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == len(told) + 1
    assert lines[-1]["message"] == "there is room again"


def test_a_run_whose_files_are_cut_short_is_one_line_rlimit_fsize(files: Path, tmp_path: Path) -> None:
    """Needs no rights: the system lets no file grow beyond a size."""
    run = [sys.executable, "-c", LIMITED, "20000", *command(files, tmp_path / "run")]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    file = tmp_path / "run" / "checkpoints" / ".writing-00000002" / "rank-00000.safetensors"
    assert error_in(done.stderr) == f"error: {file}: cannot be written: File too large"
    assert CheckpointStore(tmp_path / "run" / "checkpoints", 2).latest() is None


def test_a_folder_that_is_read_only_bind_mount(disk: Disk) -> None:
    """Root may write wherever a mode forbids it, but not to a file system that is mounted read-only."""
    registry = registry_of_fakes()
    execute(made(recipe(disk.folder / "run"), registry), registry)
    subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True)
    for output, told in (("run", "run/.lock"), ("other", "other")):
        with pytest.raises(OutputError) as caught:
            execute(made(recipe(disk.folder / output), registry), registry)
        assert str(caught.value) == f"{disk.folder}/{told}: cannot be written: read-only file system"
    store = CheckpointStore(disk.folder / "run" / "checkpoints", 2)
    with pytest.raises(OutputError, match=r"checkpoints/\.writing-00000900: cannot be written: read-only file system$"):
        save(store, 900)
    assert store.latest() == store.path(6)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    registry = registry_of_fakes()
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OutputError) as caught:
            execute(made(recipe(output), registry), registry)
        assert str(caught.value) in (
            f"{tmp_path / 'file'}: cannot be written: File exists",
            f"{tmp_path / 'file'}: cannot be written: Not a directory",
        )


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    registry = registry_of_fakes()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError) as caught:
        execute(made(recipe(tmp_path / "run"), registry), registry)
    assert str(caught.value) == (
        f"{tmp_path / 'run'}: its file system has no locks (No locks available), so two runs could write there at once. "
        "Give an output on another file system"
    )
    assert list((tmp_path / "run").iterdir()) == []
