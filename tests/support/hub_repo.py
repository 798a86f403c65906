"""What the loopback Hub knows about a repository: its files, their git and LFS identities, and its commit.

A folder on disk has no git history, so everything the real Hub would read from git is worked out from the bytes. The
same bytes give the same commit on every run, which is what lets the client libraries' caches be tested.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

KINDS = ("models", "datasets")
MAIN = "main"
LFS_SUFFIXES = frozenset({".safetensors", ".bin", ".parquet", ".arrow", ".gz", ".zip", ".npz", ".npy", ".pt"})
_DATE = "2024-01-01T00:00:00.000Z"
_TITLE = "Upload files"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class HubFile:
    """One file as the Hub describes it; `sha256` is set for those the real Hub would keep in LFS."""

    path: str
    source: Path
    size: int
    blob_id: str
    sha256: str | None

    @property
    def etag(self) -> str:
        """Clients name the cached blob after this: the git blob's sha1, or the sha256 for LFS files."""
        return self.sha256 or self.blob_id

    def lfs(self) -> dict[str, Any] | None:
        """The LFS part of a description, or nothing for a file that lives in git itself."""
        return {"oid": self.sha256, "size": self.size, "pointerSize": 134} if self.sha256 else None


@dataclass(frozen=True)
class Snapshot:
    """All the files of one repository at the only commit it has."""

    kind: str
    repo_id: str
    commit: str
    files: Mapping[str, HubFile]

    def accepts(self, revision: str) -> bool:
        """Whether the revision names this commit: there is one branch, and no tag."""
        return revision in (MAIN, self.commit)

    def info(self, with_blobs: bool) -> dict[str, Any]:
        """The answer of `/api/models/ID` and `/api/datasets/ID`."""
        shared = {
            "_id": self.commit[:24],
            "id": self.repo_id,
            "author": self.repo_id.split("/")[0],
            "sha": self.commit,
            "lastModified": _DATE,
            "createdAt": _DATE,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [_sibling(file, with_blobs) for file in self.files.values()],
        }
        return shared | ({"modelId": self.repo_id} if self.kind == "models" else {})

    def tree(self, folder: str, recursive: bool, expand: bool) -> list[dict[str, Any]] | None:
        """The entries below a folder ("" for the top), the file itself for a file's path, None where there is none."""
        if folder in self.files:
            return [self._entry(folder, expand)]
        below = [path for path in self._all_paths() if folder == "" or path.startswith(f"{folder}/")]
        if folder and not below:
            return None
        skipped = len(folder) + 1 if folder else 0
        return [self._entry(path, expand) for path in below if recursive or "/" not in path[skipped:]]

    def paths_info(self, paths: list[str], expand: bool) -> list[dict[str, Any]]:
        """The entries of the named paths; a path that does not exist is left out, as the real Hub does."""
        known = set(self._all_paths())
        wanted = (path.strip("/") for path in paths)
        return [self._entry(path, expand) for path in wanted if path in known]

    def refs(self) -> dict[str, Any]:
        """The answer of `/refs`."""
        main = {"name": MAIN, "ref": f"refs/heads/{MAIN}", "targetCommit": self.commit}
        return {"branches": [main], "tags": [], "converts": [], "pullRequests": []}

    def commits(self) -> list[dict[str, Any]]:
        """The answer of `/commits/REVISION`."""
        return [{"id": self.commit, "title": _TITLE, "message": "", "date": _DATE, "authors": []}]

    def _all_paths(self) -> list[str]:
        folders = {str(parent) for path in self.files for parent in PurePosixPath(path).parents} - {"."}
        return sorted(folders | set(self.files))

    def _entry(self, path: str, expand: bool) -> dict[str, Any]:
        file = self.files.get(path)
        if file is None:
            oid = hashlib.sha1(f"{self.commit} {path}".encode()).hexdigest()
            entry: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
        else:
            entry = {"type": "file", "oid": file.blob_id, "size": file.size, "path": path}
            if lfs := file.lfs():
                entry["lfs"] = lfs
        if expand:
            entry["lastCommit"] = {"id": self.commit, "title": _TITLE, "date": _DATE}
        return entry


def _sibling(file: HubFile, with_blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": file.path}
    if with_blobs:
        sibling |= {"size": file.size, "blobId": file.blob_id}
        if file.sha256:
            sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 134}
    return sibling


class RepoStore:
    """Reads repositories from `ROOT/models/ORG/NAME` and `ROOT/datasets/ORG/NAME`.

    The folder is looked at again for each request, so that a test can add or change a repository while the Hub runs;
    only the hashes are kept, for as long as a file's size and time stay what they were.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._hashed: dict[tuple[Path, int, int], tuple[str, str]] = {}

    def snapshot(self, kind: str, repo_id: str) -> Snapshot | None:
        """The repository as it is now, or None if there is none of that name."""
        parts = repo_id.split("/")
        if kind not in KINDS or len(parts) != 2 or any(part in ("", ".", "..") for part in parts):
            return None
        folder = self._root / kind / repo_id
        if not folder.is_dir():
            return None
        files = {file.path: file for file in self._files(folder)}
        digest = hashlib.sha1(f"{kind} {repo_id}\n".encode())
        for file in files.values():
            digest.update(f"{file.blob_id} {file.path}\n".encode())
        return Snapshot(kind, repo_id, digest.hexdigest(), files)

    def _files(self, folder: Path) -> Iterator[HubFile]:
        for source in sorted(path for path in folder.rglob("*") if path.is_file()):
            stat = source.stat()
            key = (source, stat.st_size, stat.st_mtime_ns)
            if key not in self._hashed:
                self._hashed[key] = _hash(source, stat.st_size)
            blob_id, sha256 = self._hashed[key]
            path = source.relative_to(folder).as_posix()
            yield HubFile(path, source, stat.st_size, blob_id, sha256 if source.suffix in LFS_SUFFIXES else None)


def _hash(source: Path, size: int) -> tuple[str, str]:
    """The git blob id and the sha256 of a file, in one reading."""
    git, plain = hashlib.sha1(f"blob {size}\0".encode()), hashlib.sha256()
    with source.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            git.update(chunk)
            plain.update(chunk)
    return git.hexdigest(), plain.hexdigest()
