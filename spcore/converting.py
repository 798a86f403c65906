"""Training checkpoints made into Hugging Face folders, and saved models into checkpoints: one tensor at a time, without a process.

A checkpoint may be of any layout; what it becomes is what the run itself would have saved at that step.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from spcore.artifact import MANIFEST, is_artifact, open_artifact, write_artifact
from spcore.checkpoint import MANIFEST as SEALED
from spcore.checkpoint import CheckpointStore, verify
from spcore.components import Registry
from spcore.errors import OutputError, UserError
from spcore.files import disk_errors, put_text
from spcore.recipe import load_recipe
from spcore.running import SAVED
from spcore.session import Session, assemble


def to_hugging_face(source: Path, target: Path, registry: Registry) -> dict[str, Any]:
    """Write the model of a checkpoint as a saved model. source: a run's folder (its last checkpoint) or a checkpoint in it. Returns
    {"step", "source", "folder"}. Raises UserError, CheckpointError, OutputError, and what `assemble` raises of the run's recipe."""
    _new(target)
    checkpoint = _checkpoint(source)
    session = _session(checkpoint.parent.parent, registry)
    progress = json.loads((checkpoint / "progress.json").read_text())
    from spcore.tensors import state

    plan = session.plan
    tied = plan.model.anatomy(plan.head).tied
    names = [name for name in plan.model.build(plan.head).state_dict() if name not in tied]
    report = {"steps": progress["step"], "checkpoint": str(checkpoint)}
    write_artifact(
        target, session, state.weights(checkpoint, names), writer=True, metrics=progress["metrics"], step=progress["step"], report=report
    )  # fmt: skip
    return {"step": progress["step"], "source": str(checkpoint), "folder": str(target)}


def to_checkpoint(source: Path, target: Path, registry: Registry) -> dict[str, Any]:
    """Write a saved model as the checkpoint "step-00000000" in `target`, which a run of the same model and task starts from where it
    lies in the run's folder `checkpoints`: optimizer and schedule begin anew. Returns {"step", "source", "folder"}. Raises UserError,
    ArtifactError, OutputError."""
    _new(target)
    if not is_artifact(source):
        raise UserError(
            f"{source}: no saved model: it has no {MANIFEST}", hint="Give the folder that a run has saved its model in"
        )
    artifact = open_artifact(source, registry)
    _, bound = artifact.task(registry)
    artifact.model.anatomy(bound.head)  # from here on the model knows by which names this head's weights go
    from spcore.tensors import state

    store = CheckpointStore(target, keep=1)
    with store.writing(0, writer=True) as folder:
        state.write_weights(artifact.model.weights(), folder)
        put_text(folder / "progress.json", json.dumps({"step": 0}))
    return {"step": 0, "source": str(source), "folder": str(store.path(0))}


def _new(target: Path) -> None:
    with disk_errors(target):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise OutputError(f"{target}: is there already", hint="Give the name of a folder that is new")


def _checkpoint(source: Path) -> Path:
    """A whole checkpoint, whose run's folder is two above it. Raises UserError, CheckpointError."""
    source = source.absolute()
    if (source / SAVED).is_file():
        latest = CheckpointStore(source / "checkpoints", keep=1).latest()
        if latest is None:
            raise UserError(f"{source}: a run without a checkpoint", hint="Train with train.save_every")
        return latest
    if not (source / SEALED).is_file() or not (source.parent.parent / SAVED).is_file():
        raise UserError(
            f"{source}: neither a run's folder nor a checkpoint in one",
            hint=f"Give the folder that has {SAVED}, or checkpoints/step-... below it",
        )
    verify(source)
    return source


def _session(run: Path, registry: Registry) -> Session:
    """The run, with the strategy and launcher that are used unasked: the layout is none of the model's business."""
    recipe = load_recipe(run / SAVED, registry=registry)
    tree = {key: value for key, value in recipe.to_json().items() if key not in ("strategy", "launch", "device")}
    return replace(assemble(load_recipe(tree, {}, registry=registry), registry), recipe=recipe)
