"""A true Hub on loopback: answers the Hugging Face Hub's read requests from a local folder.

With `HF_ENDPOINT` set to `Hub.endpoint`, the installed `huggingface_hub`, `transformers` and `datasets` work unchanged,
so a test can drive the project exactly as a user would (names, downloads, caches, offline runs) without the Internet.
No answer carries an Xet header or an address of another host: that is what keeps the clients on loopback.
"""

import json
import re
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from .hub_content import put_glue, put_model, put_tiny_bert
from .hub_repo import KINDS, MAIN, HubFile, RepoStore, Snapshot

__all__ = ["DEFAULT_ALIASES", "Hub", "put_glue", "put_model", "put_tiny_bert"]

DEFAULT_ALIASES: Mapping[str, str] = {
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "glue": "nyu-mll/glue",
}
_API_VERBS = frozenset({"revision", "tree", "paths-info", "refs", "commits", "discussions", "resolve"})
_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True)
class Reply:
    """A response before it is written; `file` is sent instead of `body` where there is one."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    file: HubFile | None = None


@dataclass(frozen=True)
class Target:
    """What a request asks about: `rest` is the path after the verb, still split at its slashes."""

    kind: str
    repo_id: str
    verb: str
    rest: tuple[str, ...]
    prefix: str
    suffix: str


def _json(content: Any, commit: str | None = None) -> Reply:
    headers = {"Content-Type": "application/json; charset=utf-8"} | ({"X-Repo-Commit": commit} if commit else {})
    return Reply(HTTPStatus.OK, json.dumps(content).encode(), headers)


def _error(status: int, message: str, code: str | None = None, commit: str | None = None) -> Reply:
    """A refusal: clients choose their exception from X-Error-Code, and note a missing file under X-Repo-Commit."""
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Error-Message": message}
    headers |= {"X-Error-Code": code} if code else {}
    headers |= {"X-Repo-Commit": commit} if commit else {}
    return Reply(status, json.dumps({"error": message}).encode(), headers)


def _parse(path: str) -> Target | None:
    """Reads `/api/KIND/ID[/VERB...]` and `/[KIND/]ID/resolve/REVISION/FILE`; an ID has one or two parts."""
    raw = path.strip("/").split("/")
    is_api = raw[0] == "api"
    if is_api:
        raw = raw[1:]
    named = bool(raw) and raw[0] in KINDS
    if is_api and not named:
        return None
    kind, parts = (raw[0], raw[1:]) if named else ("models", raw)
    length = 1 if len(parts) < 2 or parts[1] in _API_VERBS else 2
    repo_id, after = "/".join(parts[:length]), parts[length:]
    if not repo_id or (not is_api and after[:1] != ["resolve"]):
        return None
    prefix = ("/api" if is_api else "") + (f"/{kind}/" if named else "/")
    suffix = "".join(f"/{part}" for part in after)
    return Target(kind, unquote(repo_id), after[0] if after else "", tuple(after[1:]), prefix, suffix)


class _Answerer:
    """Decides the reply to a request; knows nothing of sockets, so that the handler holds only the transport."""

    def __init__(self, root: Path, aliases: Mapping[str, str]) -> None:
        self._store = RepoStore(root)
        self._aliases = dict(aliases)

    def answer(self, method: str, raw_path: str, body: bytes, token: str | None) -> Reply:
        """The reply to one request."""
        url = urlsplit(raw_path)
        if url.path.startswith("/api/whoami"):
            message = "Invalid credentials in Authorization header" if token else "Invalid username or password."
            return _error(HTTPStatus.UNAUTHORIZED, message)
        if url.path.startswith("/api/telemetry/"):
            return _json({})
        if url.path == "/api/agent-harnesses":
            return _json({"standardEnvVars": [], "harnesses": {}})
        target = _parse(url.path)
        if target is None:
            return _error(HTTPStatus.NOT_FOUND, "Sorry, we can't find the page you are looking for.")
        snapshot = self._store.snapshot(target.kind, target.repo_id)
        if snapshot is None:
            return self._redirect(target, url.query, token)
        return self._about_repo(method, target, snapshot, parse_qs(url.query), body)

    def _redirect(self, target: Target, query: str, token: str | None) -> Reply:
        """Old names lead to the present one; an unknown name is told apart from a private one only with a token."""
        canonical = self._aliases.get(target.repo_id)
        if canonical is None or self._store.snapshot(target.kind, canonical) is None:
            status = HTTPStatus.NOT_FOUND if token else HTTPStatus.UNAUTHORIZED
            return _error(status, "Repository not found", "RepoNotFound")
        location = target.prefix + quote(canonical) + target.suffix + (f"?{query}" if query else "")
        text = f"Temporary Redirect. Redirecting to {location}"
        return Reply(HTTPStatus.TEMPORARY_REDIRECT, text.encode(), {"Location": location, "Content-Type": "text/plain"})

    def _about_repo(
        self, method: str, target: Target, snapshot: Snapshot, query: dict[str, list[str]], body: bytes
    ) -> Reply:
        revision = unquote(target.rest[0]) if target.rest else MAIN
        if not snapshot.accepts(revision):
            return _error(HTTPStatus.NOT_FOUND, f"Invalid rev id: {revision}", "RevisionNotFound")
        path = "/".join(unquote(part) for part in target.rest[1:])
        if target.verb == "paths-info" and method == "POST":
            form = parse_qs(body.decode())
            return _json(snapshot.paths_info(form.get("paths", []), _true(form, "expand")))
        if method == "POST":
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, "This Hub only answers reading requests.")
        match target.verb:
            case "" | "revision":
                return _json(snapshot.info(_true(query, "blobs")), snapshot.commit)
            case "tree":
                entries = snapshot.tree(path, _true(query, "recursive"), _true(query, "expand"))
                return _json(entries) if entries is not None else _no_entry(path, snapshot)
            case "refs":
                return _json(snapshot.refs())
            case "commits":
                return _json(snapshot.commits())
            case "resolve":
                file = snapshot.files.get(path)
                return _file_reply(file, snapshot) if file else _no_entry(path, snapshot)
        return _error(HTTPStatus.NOT_FOUND, "Sorry, we can't find the page you are looking for.")


def _true(query: Mapping[str, list[str]], name: str) -> bool:
    return query.get(name, [""])[0].lower() in ("1", "true")


def _no_entry(path: str, snapshot: Snapshot) -> Reply:
    message = f'{path} does not exist on "{MAIN}"'
    return _error(HTTPStatus.NOT_FOUND, message, "EntryNotFound", snapshot.commit)


def _file_reply(file: HubFile, snapshot: Snapshot) -> Reply:
    """A file's headers. LFS files are served here too: a redirect to another host would leave loopback."""
    headers = {
        "Content-Type": "application/octet-stream" if file.sha256 else "text/plain; charset=utf-8",
        "ETag": f'"{file.etag}"',
        "X-Repo-Commit": snapshot.commit,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'inline; filename="{quote(Path(file.path).name)}";',
    }
    if file.sha256:
        headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.sha256}"'}
    return Reply(HTTPStatus.OK, headers=headers, file=file)


def _byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and length asked for, or None for the whole file; a length of 0 or less cannot be satisfied."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start = max(size - int(last), 0)
        return start, size - start
    stop = min(int(last) + 1, size) if last else size
    return int(first), stop - int(first)


class _Handler(BaseHTTPRequestHandler):
    """Writes replies to the wire; the clients keep connections open, so every reply states its length."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: `Hub.requests` is the log."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        reply = self.server.answerer.answer(self.command, self.path, body, self.headers.get("Authorization"))
        start, length = 0, reply.file.size if reply.file else len(reply.body)
        status, headers = reply.status, dict(reply.headers)
        wanted = _byte_range(self.headers.get("Range"), length) if reply.file else None
        if wanted is not None and wanted[1] <= 0:
            reply = Reply(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            status, headers, length = reply.status, {"Content-Range": f"bytes */{length}"}, 0
        elif wanted is not None:
            headers["Content-Range"] = f"bytes {wanted[0]}-{wanted[0] + wanted[1] - 1}/{length}"
            status, (start, length) = HTTPStatus.PARTIAL_CONTENT, wanted
        self.server.record(self.command, self.path, int(status))
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(length)}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send(reply, start, length)

    def _send(self, reply: Reply, start: int, length: int) -> None:
        source: BinaryIO = reply.file.source.open("rb") if reply.file else BytesIO(reply.body)
        with source:
            source.seek(start)
            while length > 0 and (chunk := source.read(min(length, _CHUNK))):
                self.wfile.write(chunk)
                length -= len(chunk)


class _Server(ThreadingHTTPServer):
    """Keeps the open connections, because closing only the listening socket would leave kept-alive ones answering."""

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, answerer: _Answerer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answerer = answerer
        self.log: list[tuple[str, str, int]] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def record(self, method: str, path: str, status: int) -> None:
        """Adds a request to the log, before its reply is sent: whoever has the reply finds it in the log."""
        with self._lock:
            self.log.append((method, path, status))

    def requests(self) -> list[tuple[str, str, int]]:
        """A copy of the log, safe to look through while requests come in."""
        with self._lock:
            return list(self.log)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no news; anything else is."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        """Ends every kept-alive connection, so that their threads finish and the Hub is really gone."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # the client may have hung up first
                    connection.shutdown(socket.SHUT_RDWR)


class Hub:
    """The Hub as a context manager: it answers between entry and exit, and nothing listens after."""

    def __init__(self, root: Path, aliases: Mapping[str, str] = DEFAULT_ALIASES) -> None:
        self._server = _Server(_Answerer(root, aliases))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="loopback-hub")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a child process needs to stay on loopback.

        HF_ENDPOINT alone is enough for everything to load, but `datasets` counts each load at a fixed address outside
        the Hub (s3.amazonaws.com) unless it is told not to.
        """
        return {"HF_ENDPOINT": self.endpoint, "HF_UPDATE_DOWNLOAD_COUNTS": "0"}

    @property
    def requests(self) -> list[tuple[str, str, int]]:
        """Every request so far: method, path with its query, status answered."""
        return self._server.requests()
