"""Logger `jsonl`: every event as a line of JSON, appended, so that a resumed run goes on in the same file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from spcore.files import disk_errors
from spcore.interfaces.logger import Event, Logger


class Jsonl(Logger):
    """Writes `metrics.jsonl` into the run's folder; without one it has nowhere to write and does nothing."""

    def __init__(self) -> None:
        self._file: IO[str] | None = None
        self._path = Path("metrics.jsonl")

    def start(self, output: Path | None, recipe: Mapping[str, Any]) -> None:
        """See `Logger.start`."""
        if output is not None:
            self._path = output / "metrics.jsonl"
            with disk_errors(self._path):
                self._file = self._path.open("a", encoding="utf-8")

    def event(self, event: Event) -> None:
        """See `Logger.event`."""
        if self._file is not None:
            with disk_errors(self._path):
                self._file.write(json.dumps(_finite(event.to_json()), ensure_ascii=False) + "\n")
                self._file.flush()

    def close(self) -> None:
        """See `Logger.close`."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: their names take their places."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
