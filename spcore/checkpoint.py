"""Training state on disk: whole or not at all, checksummed, found by reading manifests, pruned.

A checkpoint is the folder `step-00000500`: the engine's files, `progress.json`, and `manifest.json` with every file's size and
sha256, written last. It is made in a temporary folder, synced, and renamed into place; older ones are deleted only after
the new one is whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from spcore.errors import CheckpointError
from spcore.files import digest, disk_errors, sync_file, sync_folder

FORMAT = 1
log = logging.getLogger("slimpajama.checkpoint")


class CheckpointStore:
    """The checkpoints of a run. keep: how many."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a folder, in order of step (whatever the width of the number)."""
        if not self.folder.is_dir():
            return []
        found = (re.fullmatch(r"step-(\d+)", p.name) for p in self.folder.iterdir() if p.is_dir())
        return sorted(int(m.group(1)) for m in found if m)

    def latest(self) -> Path | None:
        """The last whole checkpoint; damaged ones are named in the log and passed over. None where there is none.

        Raises CheckpointError where there are checkpoints but none is whole.
        """
        problems = []
        for step in reversed(self.steps()):
            try:
                verify(self.path(step))
                return self.path(step)
            except CheckpointError as error:
                problems.append(error.message)
                log.warning("%s", error.message)
        if problems:
            raise CheckpointError(
                f"no whole checkpoint in {self.folder}: {problems[0]}", hint="Start anew with --overwrite"
            )
        return None

    @contextlib.contextmanager
    def writing(self, step: int, writer: bool) -> Iterator[Path]:
        """A folder to write step's state into; on leaving, the writer makes it whole and prunes. The name of the temporary
        folder is the same on every rank."""
        work = self.folder / f".writing-{step:08d}"
        with disk_errors(work):
            if writer:
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir(parents=True)
            try:
                yield work
                if writer:
                    self._finish(work, step)
            except BaseException:
                if writer:
                    shutil.rmtree(work, ignore_errors=True)
                raise

    def _finish(self, work: Path, step: int) -> None:
        files = {}
        for path in sorted(p for p in work.rglob("*") if p.is_file()):
            sync_file(path)
            files[path.relative_to(work).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest(path)}
        manifest = work / "manifest.json"
        manifest.write_text(json.dumps({"format": FORMAT, "step": step, "files": files}, indent=1))
        sync_file(manifest)
        sync_folder(work)
        target, aside = self.path(step), self.folder / f".replaced-{step:08d}"
        shutil.rmtree(aside, ignore_errors=True)
        if target.exists():
            target.rename(aside)
        work.rename(target)
        sync_folder(self.folder)
        shutil.rmtree(aside, ignore_errors=True)
        upto = [
            s for s in self.steps() if s <= step
        ]  # later ones were passed over as damaged; they must not count as kept
        for old in upto[: -self.keep]:
            shutil.rmtree(self.path(old))


def verify(folder: Path) -> None:
    """Check a checkpoint against its manifest. Raises CheckpointError that names the file."""
    manifest = folder / "manifest.json"
    try:
        content = json.loads(manifest.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{manifest}: missing; the checkpoint is not whole") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{manifest}: cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else content
        raise CheckpointError(f"{manifest}: format {found!r}, this version reads {FORMAT}")
    for name, entry in content["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            size = path.stat().st_size if path.is_file() else "missing"
            raise CheckpointError(f"{path}: {size} bytes, the manifest says {entry['bytes']}")
        if digest(path) != entry["sha256"]:
            raise CheckpointError(f"{path}: its checksum is not the manifest's: the file is damaged")
