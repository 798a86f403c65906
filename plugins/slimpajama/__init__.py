"""SlimPajama: trains, adapts and deploys language models out of exchangeable parts.

The face of `spcore`: `load_model`, `pretrain`, `finetune`, `evaluate`, `export`, `run`, the errors. Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import spcore
from spcore import __version__ as __version__

if TYPE_CHECKING:
    from spcore import *  # noqa: F403

__all__ = list(spcore.__all__)


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(spcore, name)
    raise AttributeError(f"module 'slimpajama' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
