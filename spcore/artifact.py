"""A saved model on disk: a Hugging Face folder that other tools open, plus `slimpajama.json`.

slimpajama.json says what the folder is: format version, task with its state and options, labels, metrics, recipe, data
fingerprints, versions, and for each component used its plugin and version. It is written last, so a folder that has it is
whole. Nothing is ever unpickled from a folder.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spcore.components import Registry
from spcore.errors import ArtifactError, ComponentError
from spcore.files import staged, sync_file, sync_folder, write_text
from spcore.interfaces.task import BoundTask, Limits, Task

if TYPE_CHECKING:
    import torch

    from spcore.interfaces.model import LanguageModel
    from spcore.session import Session

FORMAT = 1
MANIFEST = "slimpajama.json"


@dataclass
class Artifact:
    """A saved model, opened: configuration and manifest are read, weights are not."""

    folder: Path
    model: LanguageModel
    manifest: dict[str, Any]

    def task(self, registry: Registry) -> tuple[Task, BoundTask]:
        """The task it was trained for, bound to its saved state. Raises ArtifactError where there is none."""
        part = self.manifest.get("task")
        if not part:
            raise ArtifactError(f"{self.folder}: a model without a task", hint="Fine-tune it first, or name a task")
        model = registry.options_model("task", part["use"])
        options = model.model_validate(part["options"]) if model is not None else None
        try:
            task: Task = registry.create("task", part["use"], options)
        except ComponentError as error:
            plugin = part.get("plugin", {})
            hint = f"It was saved with plugin {plugin.get('name')!r} ({plugin.get('distribution')} {plugin.get('version')}): install that"
            raise ArtifactError(f"{self.folder / MANIFEST}: {error.message}", hint=hint) from error
        return task, task.bind(self.model.processor, self.model.config, part["state"], self.limits())

    def limits(self) -> Limits:
        """The limits it was trained with."""
        saved = self.manifest.get("limits") or {}
        return Limits(max_length=saved.get("max_length") or self.model.processor.max_length)


def is_artifact(source: str | Path) -> bool:
    """Whether a folder is a saved model of ours."""
    return (Path(source) / MANIFEST).is_file()


def open_artifact(folder: str | Path, registry: Registry) -> Artifact:
    """Open a saved model. Raises ArtifactError."""
    folder = Path(folder).absolute()
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{folder}: no {MANIFEST} there: not a model saved by slimpajama, or one not finished"
        ) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: cannot be read: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise ArtifactError(f"{file}: has no format number: not written by slimpajama")
    if manifest["format"] > FORMAT:
        raise ArtifactError(
            f"{file}: format {manifest['format']}, this version reads up to {FORMAT}", hint="Install a newer slimpajama"
        )
    return Artifact(folder, open_model(str(folder), registry, manifest.get("model")), manifest)


def open_model(source: str, registry: Registry, part: Mapping[str, Any] | None = None) -> LanguageModel:
    """Open a model source with the component that made it, else with the one that claims it."""
    name = (part or {}).get("use") or registry.claiming("model", source).name
    options = registry.options_model("model", name)
    scheme = source.partition(":")[0]
    bare = source.partition(":")[2] if scheme in registry.find("model", name).schemes else source
    model: LanguageModel = registry.create(
        "model", name, options.model_validate({"source": source}) if options else None
    ).open(bare)
    return model


def write_artifact(
    folder: Path,
    session: Session,
    weights: Iterable[tuple[str, torch.Tensor]],
    *,
    writer: bool,
    metrics: Mapping[str, float],
    step: int,
    report: Mapping[str, Any],
) -> None:
    """Write a saved model, whole or not at all. Called on every rank; only the writer writes. Files go to a temporary folder
    and are moved in one by one, `slimpajama.json` last; what was there by that name is replaced."""
    from spcore.tensors.files import save_safetensors

    if not writer:
        for _ in weights:
            pass
        return
    model, head = session.plan.model, session.plan.head
    with staged(folder) as work:
        save_safetensors(weights, work)
        model.save_config(work, head)
        model.processor.save(work)
        manifest = describe_run(session, metrics, step)
        (work / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False))
        (work / "README.md").write_text(model_card(manifest))
        files = sorted([*(p.name for p in work.iterdir()), MANIFEST])
        (work / MANIFEST).write_text(json.dumps({**manifest, "files": files}, indent=2, ensure_ascii=False))
        publish(work, folder)
    if session.recipe.output and folder == Path(session.recipe.output):
        write_text(folder / "recipe.yaml", session.recipe.to_yaml())


def publish(work: Path, folder: Path) -> None:
    """Move a finished folder's files into `folder`, the manifest last, everything synced before."""
    for path in work.iterdir():
        sync_file(path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in sorted(work.iterdir(), key=lambda p: p.name == MANIFEST):
        path.replace(folder / path.name)
    sync_folder(folder)


def describe_run(session: Session, metrics: Mapping[str, float], step: int) -> dict[str, Any]:
    """What slimpajama.json says."""
    recipe, registry = session.recipe, session.registry
    assert recipe.task is not None
    used = {kind: part.use for kind, part in (("model", recipe.model), ("task", recipe.task), ("precision", recipe.precision),
            ("strategy", recipe.strategy), ("optimizer", recipe.optimizer), ("schedule", recipe.schedule), ("dataset", recipe.data))}  # fmt: skip
    plugins = {}
    for kind, name in used.items():
        owner = registry.owner(kind, name)
        plugins[f"{kind}/{name}"] = {"name": owner.name, "distribution": owner.distribution, "version": owner.version}
    head = session.plan.head
    return {
        "format": FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": {"use": recipe.model.use, "source": session.plan.model.source, "family": session.plan.model.family},
        "task": {
            "use": recipe.task.use, "options": recipe.task.options, "state": session.bound.state(),
            "plugin": plugins[f"task/{recipe.task.use}"],
        },
        "head": {"kind": head.kind, "size": head.size, "labels": list(head.labels), "outputs": {k: list(v) for k, v in head.outputs.items()}},
        "limits": {"max_length": session.plan.max_length},
        "metrics": dict(metrics),
        "steps": step,
        "data": {"train": session.train.fingerprint, "eval": session.eval.fingerprint if session.eval else None},
        "recipe": recipe.to_json(),
        "plugins": plugins,
        "versions": versions(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Python and the distributions that decide numbers."""
    found = {"python": platform.python_version()}
    for name in ("slimpajama", "torch", "transformers", "tokenizers", "safetensors", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a distribution"
    return found


def model_card(manifest: Mapping[str, Any]) -> str:
    """README.md of a saved model."""
    base, task, metrics = manifest["model"]["source"], manifest["task"]["use"], manifest["metrics"]
    tags = {"sequence": "text-classification", "token": "token-classification", "span": "question-answering"}.get(
        manifest["head"]["kind"]
    )
    front = ["---", "library_name: transformers", *([f"pipeline_tag: {tags}"] if tags else []), "---"]
    body = [
        "",
        f"# {Path(base).name or base}, {task}",
        "",
        f"`{base}` fine-tuned for {task} with slimpajama {manifest['versions']['slimpajama']}.",
    ]
    if manifest["head"]["labels"]:
        body += ["", f"Labels: {', '.join(manifest['head']['labels'])}."]
    if metrics:
        body += ["", "| metric | value |", "|---|---|", *(f"| {k} | {v:.4g} |" for k, v in metrics.items())]
    body += [
        "",
        "```python",
        "import slimpajama",
        "",
        'slimpajama.load_model("FOLDER").predict(text=["..."])',
        "```",
        "",
    ]
    body += [f"`{MANIFEST}` holds the task's state, the recipe, the data's fingerprints and all versions.", ""]
    return "\n".join([*front, *body])
