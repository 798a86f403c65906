"""A process whose caller is gone leaves, whichever way the connection to it ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

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
