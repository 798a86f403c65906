"""One runner that generates, asked by several at once: threads, or streams that are read in turn.

Whoever wants his next token makes the runner take a step; what that step gives others waits for them. So nobody waits for a stream that
is open and not read, and requests of all share batches.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Literal

from spcore.errors import RunError
from spcore.interfaces.runtime import Generates, GenerationRequest, Token


class Shared:
    """A `Generates` for several. Nobody else may ask the runner for events."""

    def __init__(self, generator: Generates) -> None:
        self.generator = generator
        self.lock = threading.Lock()
        self.waiting: dict[int, deque[Token | Exception]] = {}
        self._events: Iterator[Token] = iter(())

    def step(self) -> None:
        """Have the next event lie where it belongs; of requests that nobody reads any more it is dropped. The lock is held. An error,
        which ends all requests, reaches all who wait."""
        try:
            event = next(self._events, None)
            if event is None:
                self._events = self.generator.events()
                event = next(self._events, None)
        except BaseException as error:
            self._events = iter(())
            for queue in self.waiting.values():
                queue.append(error if isinstance(error, Exception) else RunError("generation was interrupted"))
            self.waiting.clear()
            raise
        if event is None:
            assert not self.waiting, f"requests {sorted(self.waiting)} got no final event"
        elif event.request in self.waiting:
            self.waiting[event.request].append(event)


class View:
    """One caller's `Generates`: his requests, and events of these alone."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.admission: Literal["continuous", "batch"] = shared.generator.admission
        self._queue: deque[Token | Exception] = deque()
        self._left: dict[int, int] = {}

    def submit(self, request: GenerationRequest) -> int:
        """See `Generates.submit`."""
        with self._shared.lock:
            number = self._shared.generator.submit(request)
            self._shared.waiting[number] = self._queue
            self._left[number] = request.n
        return number

    def events(self) -> Iterator[Token]:
        """See `Generates.events`."""
        while self._left:
            with self._shared.lock:
                if not self._queue:
                    try:
                        self._shared.step()
                    except BaseException:
                        self._left.clear()
                        raise
                event = self._queue.popleft() if self._queue else None
            if event is None:  # the step was for others
                continue
            if isinstance(event, Exception):
                self._left.clear()
                raise event
            if event.finish is not None:
                self._left[event.request] -= 1
                if not self._left[event.request]:
                    self._forget(event.request)
            yield event

    def cancel(self, request: int, sample: int | None = None) -> None:
        """See `Generates.cancel`."""
        self._shared.generator.cancel(request, sample)

    def close(self) -> None:
        """Cancel what still runs; its events are nobody's."""
        for request in list(self._left):
            self.cancel(request)
            self._forget(request)

    def _forget(self, request: int) -> None:
        self._left.pop(request, None)
        self._shared.waiting.pop(request, None)
