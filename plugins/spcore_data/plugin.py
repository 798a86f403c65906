"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Data sets `files`, `hub`, `glue`, `builtin`."""
    return [
        Component(
            "dataset", "files", "spcore_data.files:Files", "CSV, TSV, JSON, Parquet, Arrow, text; a path, a glob, a folder",
            options="spcore_data.options:FilesOptions", default=True,
        ),
        Component(
            "dataset", "hub", "spcore_data.hub:Hub", "A data set of the Hugging Face Hub", options="spcore_data.options:HubOptions",
            schemes=("hf",),
        ),
        Component(
            "dataset", "glue", "spcore_data.glue:Glue", "GLUE's tasks, with their columns, metrics and label names",
            options="spcore_data.options:GlueOptions",
        ),
        Component(
            "dataset", "builtin", "spcore_data.builtin_sets:Builtin", "Sets that ship with the project",
            options="spcore_data.options:BuiltinOptions",
        ),
    ]  # fmt: skip
