"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


def _dataset(
    name: str, target: str, summary: str, options: str, *, default: bool = False, scheme: str = ""
) -> Component:
    schemes = (scheme,) if scheme else ()
    options = f"spcore_data.options:{options}"
    return Component(
        "dataset", name, f"spcore_data.{target}", summary, options=options, default=default, schemes=schemes
    )


@hookimpl
def spcore_components() -> list[Component]:
    """Data sets `files`, `parallel`, `corpus`, `hub`, `glue`, `builtin`, `rows`."""
    formats = "CSV, TSV, JSON, JSON lines, Parquet, Arrow, text, CoNLL; a path, a glob, a folder"
    return [
        _dataset("files", "files:Files", formats, "FilesOptions", default=True),
        _dataset(
            "parallel",
            "parallel:Parallel",
            "Texts in several languages, a file each, line by line",
            "ParallelOptions",
            scheme="parallel",
        ),
        _dataset(
            "corpus",
            "corpus:Corpus",
            "Documents of any amount of text, JSON lines, Parquet",
            "CorpusOptions",
            scheme="corpus",
        ),
        _dataset("hub", "hub:Hub", "A data set of the Hugging Face Hub", "HubOptions", scheme="hf"),
        _dataset("glue", "glue:Glue", "GLUE's tasks, with their columns, label names and metrics", "GlueOptions"),
        _dataset("builtin", "builtin_sets:Builtin", "Sets that ship with the project", "BuiltinOptions"),
        _dataset("rows", "rows:Rows", "Rows given as mappings, or spilled to a file", "RowsOptions"),
    ]
