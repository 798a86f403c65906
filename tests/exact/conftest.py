from __future__ import annotations

from collections.abc import Iterator

import pytest

from exact.processes import Processes


@pytest.fixture(scope="session")
def two() -> Iterator[Processes]:
    with Processes(2) as processes:
        yield processes


@pytest.fixture(scope="session")
def four() -> Iterator[Processes]:
    with Processes(4) as processes:
        yield processes
