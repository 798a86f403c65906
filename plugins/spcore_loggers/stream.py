"""A text stream that a run outlives."""

from __future__ import annotations

from typing import IO, Any


class LastingStream:
    """Passes text on as long as the stream beneath takes it; what comes later is dropped. A run goes on when the terminal it
    was started from is closed, or the pipe its stderr goes into; rich would end the process."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._gone = False

    def write(self, text: str) -> int:
        """Write `text`; returns its length [characters] whether it arrived or not."""
        if not self._gone and not self._stream.closed:
            try:
                self._stream.write(text)
            except OSError:
                self._gone = True
        return len(text)

    def flush(self) -> None:
        """Flush the stream beneath."""
        if not self._gone and not self._stream.closed:
            try:
                self._stream.flush()
            except OSError:
                self._gone = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
