from __future__ import annotations

from collections.abc import Iterator

import pytest

from exact.processes import Processes
from parity.warm import READY


@pytest.fixture(scope="session")
def two() -> Iterator[int]:
    with Processes(2) as processes:
        READY[2] = processes
        yield 2
    del READY[2]


@pytest.fixture(scope="session")
def four() -> Iterator[int]:
    with Processes(4) as processes:
        READY[4] = processes
        yield 4
    del READY[4]
