"""What processes and their caller say: one whose caller is gone leaves, whichever way the connection ends; strangers are not heard."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from spcore.launching.channel import Hub

WAITS = """
import sys, threading
from spcore.launching.channel import Channel
Channel(("127.0.0.1", int(sys.argv[1])), "token", 0, 0)
threading.Event().wait()
"""


@pytest.mark.parametrize("reset", [False, True])
def test_a_caller_that_is_gone(reset: bool) -> None:
    """A system resets a connection that is closed with something unread."""
    path = os.pathsep.join(filter(None, sys.path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", WAITS, str(server.getsockname()[1])], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        connection, _ = server.accept()
        assert connection.recv(2**16, socket.MSG_PEEK if reset else 0)
        connection.close()
        assert child.communicate(timeout=10) == (None, "")
        assert child.returncode == 1


@pytest.mark.parametrize(
    "said",
    [b"no json\n", b"[1]\n", b'{"token": "token"}\n', b'{"rank": 0, "attempt": 0, "token": "\xc3\xa9"}\n', b"x" * 9000],
)
def test_a_stranger_is_not_heard(said: bytes) -> None:
    """Who listens to a network is spoken to by anybody."""
    with contextlib.closing(Hub(token="token")) as hub, socket.create_connection(hub.address) as stranger:
        stranger.sendall(said)
        stranger.settimeout(10)
        while not closed(stranger):
            assert hub.receive(0.1) == []
        assert not hub.greeted


def closed(connection: socket.socket) -> bool:
    """Whether the other end has let go."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:  # it had not read all
        return True
