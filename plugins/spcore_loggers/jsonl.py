"""Logger `jsonl`: every event as a line of JSON, appended, so that a resumed run goes on in the same file. Steps between the
last checkpoint and the end of a run that was killed are then there twice; the later ones count.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import numbers
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from spcore.files import disk_errors
from spcore.interfaces.logger import Event, Logger

_LOG = logging.getLogger("slimpajama.spcore_loggers")


class Jsonl(Logger):
    """Writes `metrics.jsonl` into the run's folder, each line at once; without a folder it has nowhere to write and does
    nothing. Raises OutputError where the disk takes no more."""

    def __init__(self) -> None:
        self._file: FileIO | None = None
        self._path = Path("metrics.jsonl")

    def start(self, output: Path | None, recipe: Mapping[str, Any]) -> None:
        """See `Logger.start`."""
        self.close()
        if output is not None:
            self._path = output / "metrics.jsonl"
            with disk_errors(self._path):
                cut_torn_line(self._path)
                self._file = self._path.open("ab", buffering=0)  # nothing is held back that `close` could lose

    def event(self, event: Event) -> None:
        """See `Logger.event`."""
        if self._file is not None:
            line = json.dumps(plain(event.to_json()), ensure_ascii=False, allow_nan=False)
            with disk_errors(self._path):
                write_whole(self._file, (line + "\n").encode())

    def close(self) -> None:
        """See `Logger.close`."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_whole(file: FileIO, data: bytes) -> None:
    """Write all of `data` at a file's end, or nothing: a disk that is nearly full takes a part first. Raises OSError."""
    end = file.seek(0, os.SEEK_END)
    try:
        while data:
            data = data[file.write(data) :]
    except OSError:
        with contextlib.suppress(OSError):  # what can be wrong with it is said already
            file.truncate(end)
        raise


def cut_torn_line(path: Path) -> None:
    """Cut off what a killed run left of its last line, which would make the next one unreadable too. Raises OSError."""
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() == b"\n":
            return
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        _LOG.warning("%s: the last line is not whole (%d bytes) and is cut off", path, len(content) - whole)
        file.truncate(whole)


def plain(value: Any) -> Any:
    """A value as JSON has it: numpy's numbers as Python's; NaN and infinity, which JSON has not, as "nan", "inf", "-inf"."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else str(float(value))
    return str(value)
