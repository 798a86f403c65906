"""A fault at every single operation of a checkpoint: the last good one stays, is found and is whole, and the error is one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crash.faulty_disk import Crash, FaultyDisk, Kind, count, faulty
from spcore import files
from spcore.checkpoint import CheckpointStore, verify
from spcore.errors import CheckpointError, OutputError
from spcore.files import clear, put_text
from spcore.tensors.files import load_safetensors, write_tensors


def save(store: CheckpointStore, step: int, value: float | None = None) -> None:
    """A checkpoint as a run of two ranks makes it."""
    with store.writing(step, writer=True) as work:
        for rank in range(2):
            tensors = {"w": torch.full((50,), float(step if value is None else value))}
            write_tensors(tensors, work / f"rank-{rank:05d}.safetensors", {})
        put_text(work / "progress.json", f'{{"step": {step}}}')


def value_of(folder: Path) -> float:
    """What the checkpoint of a step holds, verified."""
    verify(folder)
    (one,) = {float(t[0]) for rank in range(2) for _, t in load_safetensors(folder / f"rank-{rank:05d}.safetensors")}
    return one


class Case:
    """A run's checkpoints as they are before a save, and the save."""

    def __init__(self, root: Path, *, same_step: bool) -> None:
        self.root, self.old, self.new = root, 100.0, 100.5 if same_step else 200.0
        self.step = 100 if same_step else 200
        self.store = CheckpointStore(root / "checkpoints", keep=1)

    def reset(self) -> None:
        """The checkpoint of step 100 alone."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        save(self.store, 100)

    def save(self) -> None:
        """The next one."""
        save(self.store, self.step, self.new)

    def found(self) -> float:
        """The value of the checkpoint that a run would go on from."""
        latest = self.store.latest()
        assert latest is not None, "the last good checkpoint is lost"
        return value_of(latest)

    def goes_on(self) -> None:
        """The next start clears up and saves."""
        clear(self.store.folder)
        save(self.store, 300)
        assert [p.name for p in self.store.folder.iterdir()] == ["step-00000300"]


@pytest.fixture(params=["next step", "same step", "same step, no exchange"])
def case(request: pytest.FixtureRequest, quick: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """No exchange: a file system where two folders cannot change names at once."""
    if "no exchange" in request.param:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    return Case(quick / "run", same_step="same" in request.param)


_NAMING = ("rename", "exchange")


def each(case: Case) -> range:
    """The numbers of the save's operations, all kinds of which are among them."""
    case.reset()
    operations = count(case.root, case.save)
    assert {"open", "write", "fsync", "mkdir"} <= {what for what, _ in operations}
    assert len(operations) >= 14
    return range(len(operations))


@pytest.mark.parametrize("kind", ["once", "full"])
def test_an_error_at_any_operation(case: Case, kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    for n in each(case):
        case.reset()
        caplog.clear()
        said = None
        with faulty(FaultyDisk(case.root, n, kind)) as disk:
            try:
                case.save()
            except OutputError as error:
                said = str(error)
        where = f"operation {n}, {disk.operations[n]}"
        if said is None:  # deleting the old one failed: the new one is whole, and it is told
            assert case.found() == case.new, where
            assert kind == "full" or "cannot be deleted" in caplog.text or disk.operations[n][0] in ("open",), where
        else:
            assert said.count("\n") == 0, where
            assert said.startswith(f"{case.root}/"), where
            assert said.endswith(("Input/output error", "no space left on the disk")), where
            assert case.found() in (case.old, case.new), where
        case.goes_on()


@pytest.mark.parametrize("power", [pytest.param("process gone", marks=pytest.mark.slow), "power gone"])
def test_a_crash_at_any_operation(case: Case, power: str) -> None:
    for n in each(case):
        case.reset()
        with faulty(FaultyDisk(case.root, n, "crash")) as disk, pytest.raises(Crash):
            case.save()
        if power == "power gone":
            disk.lose_power()
        assert case.found() in (case.old, case.new), f"operation {n}, {disk.operations[n]}"
        case.goes_on()


def test_the_old_one_goes_after_the_new_one_is_whole(case: Case) -> None:
    """In the order in which it happens: files flushed, manifest, folder, name, its folder flushed, and then the old one."""
    case.reset()
    operations = count(case.root, case.save)
    last = {entry: n for n, entry in enumerate(operations)}
    named = next(n for n, (what, name) in enumerate(operations) if what in _NAMING and name.startswith(".writing-"))
    manifest = operations.index(("open", "manifest.json"))
    for rank in range(2):
        assert last["fsync", f"rank-{rank:05d}.safetensors"] < manifest
    assert last["fsync", "progress.json"] < manifest
    assert manifest < last["write", "manifest.json"] < last["fsync", "manifest.json"] < named
    assert last["fsync", f".writing-{case.step:08d}"] < named
    assert named < last["fsync", "checkpoints"] < _deleting(operations)


def _deleting(operations: list[tuple[str, str]]) -> int:
    return next(n for n, (what, name) in enumerate(operations) if what == "unlink" and name == "manifest.json")


def writes_the_manifest_first(self: CheckpointStore, work: Path, step: int) -> None:
    """The planted fault: described before it is there."""
    shutil.move(work / "progress.json", self.folder / "later")
    real(self, work, step)
    shutil.move(self.folder / "later", self.path(step) / "progress.json")


real = CheckpointStore._finish


def test_a_manifest_that_was_written_before_its_files_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    monkeypatch.setattr(CheckpointStore, "_finish", writes_the_manifest_first)
    save(store, 100)
    with pytest.raises(CheckpointError, match=r"progress\.json: not in the manifest, which must be written last"):
        store.latest()


@pytest.mark.parametrize("name", ["rank-00000.safetensors", "progress.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["torn", "a bit flipped", "missing"])
def test_harm_to_any_file_is_one_line_that_names_it(
    name: str, harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (100, 200):
        save(store, step)
    whole = (store.path(200) / name).read_bytes()
    for content in harmed(whole, harm):
        caplog.clear()
        if content is None:
            (store.path(200) / name).unlink()
        else:
            (store.path(200) / name).write_bytes(content)
        assert store.latest() == store.path(100)
        (said,) = [record.getMessage() for record in caplog.records]
        assert said.startswith(f"{store.path(200) / name}: ")
        assert "\n" not in said


def harmed(whole: bytes, harm: str) -> list[bytes | None]:
    """A file's content, harmed: cut at several places, or with a bit flipped in each of some bytes."""
    if harm == "missing":
        return [None]
    if harm == "torn":
        return [whole[: len(whole) * n // 4] for n in range(4)]
    flips: list[bytes | None] = []
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        flips.append(bytes(flipped))
    return flips


def test_what_a_crash_left_is_cleared_and_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    save(store, 100)
    for name in (".writing-00000200", ".removed-step-00000050", ".replaced-step-00000100"):
        shutil.copytree(store.path(100), tmp_path / name)
    assert (store.steps(), store.latest()) == ([100], store.path(100))
    save(store, 200)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000100", "step-00000200"]


@pytest.mark.parametrize("finds", [lambda store: store.latest(), lambda store: clear(store.folder)])
def test_between_two_renames_the_checkpoint_is_not_lost(
    tmp_path: Path, finds: Callable[[CheckpointStore], object]
) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    save(store, 100)
    store.path(100).rename(tmp_path / ".replaced-step-00000100")
    finds(store)
    assert value_of(store.path(100)) == 100
    assert store.latest() == store.path(100)
