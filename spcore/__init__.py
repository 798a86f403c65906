"""The core of SlimPajama: what a run is made of. Names load on first use, so that `import spcore` costs nothing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Component": "components", "Plugin": "components", "Registry": "components", "RegistrySpec": "components",
    "default_registry": "components", "hookimpl": "hooks", "API_VERSION": "hooks",
    "Recipe": "recipe", "load_recipe": "recipe", "Session": "session", "assemble": "session",
    "Evaluation": "api", "LanguageModelHandle": "api", "load_model": "api", "finetune": "api", "pretrain": "api", "evaluate": "api",
    "export": "api", "run": "api", "TextStream": "api_writing", "GenerationSettings": "writing_settings", "RunResult": "interfaces.launcher", "Artifact": "artifact",
    "SlimPajamaError": "errors", "UserError": "errors", "RecipeError": "errors", "ComponentError": "errors",
    "RefusalError": "errors", "SourceError": "errors", "DataError": "errors", "ArtifactError": "errors",
    "CheckpointError": "errors", "OutputError": "errors", "RunError": "errors", "RankError": "errors",
    "OutOfMemory": "errors",
}  # fmt: skip
__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from spcore.api import Evaluation, LanguageModelHandle, evaluate, export, finetune, load_model, pretrain, run
    from spcore.api_writing import TextStream
    from spcore.artifact import Artifact
    from spcore.components import Component, Plugin, Registry, RegistrySpec, default_registry
    from spcore.errors import (
        ArtifactError,
        CheckpointError,
        ComponentError,
        DataError,
        OutOfMemory,
        OutputError,
        RankError,
        RecipeError,
        RefusalError,
        RunError,
        SlimPajamaError,
        SourceError,
        UserError,
    )  # fmt: skip
    from spcore.hooks import API_VERSION, hookimpl
    from spcore.interfaces.launcher import RunResult
    from spcore.recipe import Recipe, load_recipe
    from spcore.session import Session, assemble
    from spcore.writing_settings import GenerationSettings


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"spcore.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'spcore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
