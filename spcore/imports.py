"""Imports by path that leave the process as it was: some libraries set environment variables, filter warnings and draw from the global
random generator when they are imported.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from spcore.errors import ComponentError

_LOCK = threading.RLock()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Round imports of third-party libraries, and nothing that takes long: what other threads set meanwhile is put back too."""
    with _LOCK:
        environment, state = dict(os.environ), random.getstate()
        try:
            with warnings.catch_warnings():
                yield
        finally:
            random.setstate(state)
            for name in [name for name in os.environ if name not in environment]:
                del os.environ[name]
            for name, value in environment.items():
                if os.environ.get(name) != value:
                    os.environ[name] = value


def attribute(target: str, subject: str) -> Any:
    """What lies at "package.module:attribute", or the module at "package.module". Raises ComponentError."""
    module, _, attribute = target.partition(":")
    try:
        with undisturbed():
            value: Any = importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            value = getattr(value, part)
    except (Exception, SystemExit) as error:
        raise ComponentError(f"{subject} cannot be imported from {target}: {type(error).__name__}: {error}") from error
    return value


def importable(module: ModuleType) -> bool:
    """Whether a child process, which has this one's sys.path, can import the same by its name. What lies in a script or a notebook it
    cannot, nor what was put into sys.modules by hand."""
    name, own = module.__name__, module.__spec__
    if own is None or name == "__main__" or sys.modules.get(name) is not module:
        return False
    above, _, _ = name.rpartition(".")
    path = getattr(sys.modules.get(above), "__path__", None) if above else None
    found = (finder.find_spec(name, path) for finder in sys.meta_path)
    spec = next((spec for spec in found if spec is not None), None)
    return spec is not None and spec.origin == own.origin


def reached(target: str) -> Any:
    """What a child process would find at "package.module:attribute", None where it would find nothing or it is not imported here."""
    name, _, attributes = target.partition(":")
    module: Any = sys.modules.get(name)
    if module is None or not importable(module):
        return None
    return functools.reduce(lambda value, part: getattr(value, part, None), attributes.split("."), module)
