"""What the processes of a run and the process that started them say to each other, over TCP: JSON, a line each.

A worker says: {"rank", "token", "attempt"} first; then {"event"}, {"log"}, {"failed"}, {"result"}. Its last word is {"bye"}: a
connection that ends without it is a process that died. What keeps a machine's workers (`cluster.keep`) has a rank below 0 and says
{"exited"}. The parent says: "heard" (an event, to who told it), "stop" (finish the step, save), "abort" (another process died), "end"
(leave). A worker whose parent is gone leaves at once, so nothing writes on behind a run that is started again.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from spcore.interfaces.logger import Event

Message = dict[str, Any]
LOOPBACK = "127.0.0.1"
GREETING = 4096
"""Bytes that a peer may say before it has shown the token."""


@dataclass
class _Peer:
    socket: socket.socket
    rank: int | None = None
    attempt: int = 0
    leaving: bool = False
    held: bytes = b""


@dataclass
class Hub:
    """The parent's end. host: under which its workers reach this machine; one other than loopback listens to every network, and hears
    those alone that have the token. said: to all, and to those that come. greeted: whether somebody has come."""

    host: str = LOOPBACK
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    said: str | None = None
    greeted: bool = False

    def __post_init__(self) -> None:
        self._server = socket.create_server((LOOPBACK if self.host == LOOPBACK else "", 0))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._peers: list[_Peer] = []
        self.address: tuple[str, int] = (self.host, self._server.getsockname()[1])

    def receive(self, timeout: float) -> list[tuple[int, int, Message]]:
        """(rank, attempt, message) of what has come, waiting for so many seconds at most; {"lost": true} is a process that died."""
        found: list[tuple[int, int, Message]] = []
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._server:
                self._accept()
            else:
                found += self._read(key.data)
        return found

    def _accept(self) -> None:
        connection, _ = self._server.accept()
        peer = _Peer(connection)
        self._peers.append(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _read(self, peer: _Peer) -> list[tuple[int, int, Message]]:
        try:
            data = peer.socket.recv(2**16)
        except ConnectionError:  # killed with something unread
            data = b""
        *lines, peer.held = (peer.held + data).split(b"\n")
        new = peer.rank is None and (lines or len(peer.held) > GREETING)
        if new and not self._greeted(peer, lines.pop(0) if lines else b""):
            self._forget(peer)
            return []
        messages = [json.loads(line) for line in lines]
        peer.leaving = peer.leaving or any("bye" in message for message in messages)
        if not data:
            self._forget(peer)
            if peer.rank is not None and not peer.leaving:
                messages.append({"lost": True})
        assert peer.rank is not None or not messages, "a peer without a rank says nothing"
        return [(peer.rank or 0, peer.attempt, message) for message in messages]

    def _greeted(self, peer: _Peer, line: bytes) -> bool:
        """Whether a peer's first line says who it is; anybody may have sent it."""
        try:
            hello = json.loads(line[:GREETING])
            known = hmac.compare_digest(str(hello["token"]).encode(), self.token.encode())
            rank, attempt = int(hello["rank"]), int(hello["attempt"])
        except (KeyError, TypeError, ValueError):
            return False
        if not known:
            return False
        peer.rank, peer.attempt, self.greeted = rank, attempt, True
        if self.said is not None:
            self._send(peer, self.said)
        return True

    def _forget(self, peer: _Peer) -> None:
        self._selector.unregister(peer.socket)
        self._peers.remove(peer)
        peer.socket.close()

    def say(self, word: str, *, attempt: int | None = None) -> None:
        """Tell all workers, of an attempt alone where one is given; else those that come later too."""
        if attempt is None:
            self.said = word
        for peer in self._peers:
            if peer.rank is not None and (attempt is None or peer.attempt == attempt):
                self._send(peer, word)

    def answer(self, rank: int, attempt: int, word: str) -> None:
        """Tell one worker."""
        for peer in self._peers:
            if (peer.rank, peer.attempt) == (rank, attempt):
                self._send(peer, word)

    def _send(self, peer: _Peer, word: str) -> None:
        try:
            peer.socket.sendall(f"{word}\n".encode())
        except OSError:  # it is gone; that is read in its turn
            peer.leaving = peer.leaving or word == "end"

    def close(self) -> None:
        """Close every connection."""
        for peer in list(self._peers):
            self._forget(peer)
        self._selector.close()
        self._server.close()


class Channel:
    """A worker's end, and its `Control`. stop: set when the run should end at the present step's end. leave: called with an exit code,
    by another thread, where the process is to go."""

    def __init__(
        self, address: tuple[str, int], token: str, rank: int, attempt: int, leave: Callable[[int], Any] = os._exit
    ) -> None:
        self.stop = threading.Event()
        self._leave = leave
        self._unheard, self._answered = 0, threading.Condition()
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
        )  # the parent's machine may be gone and say nothing
        self._lock = threading.Lock()
        self.say({"rank": rank, "token": token, "attempt": attempt})
        threading.Thread(target=self._listen, name="slimpajama-channel", daemon=True).start()

    def say(self, message: Message) -> None:
        """Send a message."""
        with self._lock:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def tell(self, event: Event) -> None:
        """Send an event."""
        with self._answered:
            self._unheard += 1
        self.say({"event": event.to_json()})

    def is_set(self) -> bool:
        """Whether to stop, once the caller has heard of all that was told: he may wish so because of it."""
        with self._answered:
            self._answered.wait_for(lambda: not self._unheard)
        return self.stop.is_set()

    def _listen(self) -> None:
        with contextlib.suppress(ConnectionError):  # the parent was killed with something unread
            self._obey()
        self._leave(1)  # the parent is gone

    def _obey(self) -> None:
        """Until the connection ends."""
        with self._socket.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                word = line.strip()
                if word == "stop":
                    self.stop.set()
                elif word == "heard":
                    with self._answered:
                        self._unheard -= 1
                        self._answered.notify_all()
                else:
                    self._leave(0 if word == "end" else 1)
