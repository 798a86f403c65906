"""A saved model on disk: a Hugging Face folder that other tools open, plus `slimpajama.json`.

slimpajama.json says what the folder is: format version, task with its state and options, labels, metrics, recipe, data
fingerprints, versions, for each component used its plugin and version, and every file's size and sha256. It comes last, so a
folder that has it is whole. Files are checked when a saved model is opened, weights while they are read. Nothing is ever
unpickled from a folder.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import json
import logging
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spcore.components import Registry
from spcore.errors import ArtifactError, ComponentError, OutputError
from spcore.files import (
    LEFTOVERS,
    LOCK,
    digest,
    disk_errors,
    fault,
    locked,
    newer_format,
    put_text,
    read_errors,
    read_sealed,
    reason,
    remove,
    replace_folder,
    restore,
    sealed_files,
    sealed_text,
    staged,
    sync_folder,
    sync_tree,
    write_text,
)
from spcore.interfaces.task import BoundTask, Limits, Task

if TYPE_CHECKING:
    import torch

    from spcore.interfaces.model import LanguageModel, Processor
    from spcore.session import Session

FORMAT = 1
MANIFEST = "slimpajama.json"
CONFIG = "config.json"
RUN = "run.json"
"""What a run's folder has from its first moment (see `spcore.running`)."""
PROCESSOR = "processor"
"""What slimpajama.json has of `Processor.portable`."""
WEIGHTS = (".safetensors", ".onnx", ".onnx_data", ".onnx.data")
"""Endings of files that are checked while they are read, not before."""
TEXTS = ("README.md", "report.json")
"""Files for people, who may edit them: a difference is told, not refused."""
log = logging.getLogger("slimpajama.artifact")


class Artifact:
    """A saved model, opened: the manifest is read, weights are not. model: opened already, or how to open it."""

    def __init__(
        self, folder: Path, model: LanguageModel | Callable[[], LanguageModel], manifest: dict[str, Any]
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self._open: Callable[[], Any] = model if inspect.isfunction(model) else lambda: model
        self._lock = threading.RLock()

    @property
    def model(self) -> LanguageModel:
        """The model, whose configuration is read when it is first asked for."""
        with self._lock:
            return self._model

    @functools.cached_property
    def _model(self) -> LanguageModel:
        opened: LanguageModel = self._open()
        return opened

    @functools.cached_property
    def processor(self) -> Processor:
        """The tokenizer: by itself where the folder says how, else the model's."""
        facts = self.manifest.get(PROCESSOR)
        if not facts:
            return self.model.processor
        from spcore.tokenizing import open_processor

        return open_processor(self.folder, facts)

    def task(
        self, registry: Registry, *, limits: Limits | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Task, BoundTask]:
        """The task it was trained for, bound to its saved state. limits: None for those it was trained with. options: of the task, in
        place of those. Raises ArtifactError where there is none."""
        part = self.manifest.get("task")
        if not part:
            raise ArtifactError(f"{self.folder}: a model without a task", hint="Fine-tune it first, or name a task")
        model = registry.options_model("task", part["use"])
        saved = model.model_validate(part["options"]) if model is not None else None
        try:
            task: Task = registry.create("task", part["use"], saved)
        except ComponentError as error:
            plugin = part.get("plugin", {})
            hint = f"It was saved with plugin {plugin.get('name')!r} ({plugin.get('distribution')} {plugin.get('version')}): install that"
            raise ArtifactError(f"{self.folder / MANIFEST}: {error.message}", hint=hint) from error
        if options:
            from spcore.inference import task_with
            from spcore.recipe_tree import overlay

            task = task_with(registry, part["use"], overlay(part["options"], options))
        most = limits or self.limits()
        if task.portable:
            return task, task.bind(self.processor, None, part["state"], most)
        return task, task.bind(self.model.processor, self.model.config, part["state"], most)

    def limits(self) -> Limits:
        """The limits it was trained with, for evaluations and predictions."""
        saved = self.manifest.get("limits") or {}
        return Limits(max_length=saved.get("max_length") or self.processor.max_length, evaluation=True)


def is_artifact(source: str | Path) -> bool:
    """Whether a folder is a saved model of ours."""
    with contextlib.suppress(OSError):
        restore(Path(source))
    return (Path(source) / MANIFEST).is_file()


def open_artifact(folder: str | Path, registry: Registry, part: Mapping[str, Any] | None = None) -> Artifact:
    """Open a saved model whose files are all there and, weights aside, undamaged. part: as `open_model` takes it. Raises ArtifactError
    that names the file."""
    folder = Path(folder).absolute()
    if not is_artifact(folder):
        raise ArtifactError(f"{folder}: no {MANIFEST} there: not a model saved by slimpajama, or one not finished")
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    use = (manifest.get("model") or {}).get("use")
    opening = part or ({"use": use} if use else {})
    return Artifact(folder, lambda: open_model(str(folder), registry, opening), manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """slimpajama.json of a saved model. Raises ArtifactError."""
    file = folder / MANIFEST
    try:
        manifest = read_sealed(file)
        newer = newer_format(manifest, FORMAT)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: cannot be read: {error}") from error
    if newer:
        raise ArtifactError(f"{file}: {newer}", hint="Install a newer slimpajama")
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any], *, weights: bool = False) -> None:
    """Check the files of a saved model; of weights the size alone, unless asked: `verified` sees to them as they are read. Raises
    ArtifactError that names the file."""
    files = manifest.get("files")
    for name, entry in files.items() if isinstance(files, dict) else ():  # 0.1's first models have a list of names
        if entry is None:  # a person took it out, see the hint
            continue
        attached = name.partition("/")[0]
        if attached != name and attached in manifest and not (folder / attached).exists():
            continue  # what `attach` added may be thrown away; whoever asks for it is told that it is gone
        wrong = fault(folder / name, entry, read=weights or not name.endswith(WEIGHTS))
        if wrong and name in TEXTS:
            log.warning("%s: %s; that changes no answer", folder / name, wrong)
        elif wrong:
            hint = f'Save it again; or, changed on purpose, make its entry in {MANIFEST} null and take "checksum" out'
            raise ArtifactError(f"{folder / name}: {wrong}", hint=hint)


@contextlib.contextmanager
def verified(file: Path, folder: Path | None = None) -> Iterator[None]:
    """Round the reading of a weight file: on leaving, it is what the slimpajama.json in `folder` (default: beside it) says, where
    there is one. The checksum is made in a thread while the caller reads, and costs him little. Raises ArtifactError."""
    folder = folder or file.parent
    files = read_manifest(folder).get("files") if (folder / MANIFEST).is_file() else None
    entry = files.get(file.relative_to(folder).as_posix(), {}) if isinstance(files, dict) else None
    if entry is None:
        yield
        return
    if wrong := fault(file, entry, read=False):
        raise ArtifactError(f"{file}: {wrong}")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(fault, file, entry)
        yield
    if wrong := found.result():
        raise ArtifactError(f"{file}: {wrong}")


def open_model(source: str, registry: Registry, part: Mapping[str, Any] | None = None) -> LanguageModel:
    """Open a model source. part: {"use": the component, option: value, ...}; without "use" the one that claims the source. Raises
    ArtifactError for the folder of a run that has not saved its model."""
    with read_errors():
        return _opened(source, registry, part or {})


def _opened(source: str, registry: Registry, part: Mapping[str, Any]) -> LanguageModel:
    if (Path(source) / RUN).is_file() and not is_artifact(source):
        raise ArtifactError(
            f"{source}: a run that is not finished; it has no model yet", hint="Start it again to finish it"
        )
    name = part.get("use") or registry.claiming("model", source).name
    given = {**{key: value for key, value in part.items() if key != "use"}, "source": source}
    options = registry.options_model("model", name)
    model: LanguageModel = registry.create("model", name, options.model_validate(given) if options else None).open(
        registry.bare("model", name, source)
    )
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
    """Write a saved model, whole or not at all. Called on every rank; only the writer writes. folder: of its own, where it takes
    the place of what was there at once; or the run's, where slimpajama.json comes last. Raises OutputError."""
    from spcore.tensors.files import save_safetensors

    if not writer:
        for _ in weights:
            pass
        return
    model, head = session.plan.model, session.plan.head
    run = session.recipe.output is not None and folder == Path(session.recipe.output)
    folder = folder.resolve()
    with staged(folder, inside=run) as work:
        save_safetensors(weights, work)
        model.save_config(work, head)
        model.processor.save(work)
        manifest = describe_run(session, metrics, step)
        put_text(work / "report.json", json.dumps(report, indent=2, ensure_ascii=False))
        put_text(work / "README.md", model_card(manifest))
        put_text(work / MANIFEST, sealed_text({**manifest, "files": sealed_files(work)}))
        publish(work, folder)


def adopt(model: LanguageModel, task: Task, bound: BoundTask, folder: Path, registry: Registry) -> None:
    """Write a model that was trained elsewhere for a task that its configuration names as a saved model, whole or not at all. Raises
    OutputError."""
    from spcore.tensors.files import save_safetensors

    use = next(
        c.name for plugin, c in registry.components("task") if registry.load("task", f"{plugin}:{c.name}") is type(task)
    )
    options = registry.options_model("task", use)
    owner, head = registry.owner("task", use), bound.head
    with staged(folder) as work:
        model.anatomy(head)  # from here on the model knows by which names this head's weights go
        save_safetensors(model.weights(), work)
        model.save_config(work, head)
        model.processor.save(work)
        manifest = {
            "format": FORMAT,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "model": {"use": registry.claiming("model", model.source).name, "source": model.source, "family": model.family},
            "task": {
                "use": use, "options": options().model_dump(mode="json") if options is not None else {}, "state": bound.state(),
                "plugin": {"name": owner.name, "distribution": owner.distribution, "version": owner.version},
            },
            "head": {"kind": head.kind, "size": head.size, "labels": list(head.labels), "outputs": {k: list(v) for k, v in head.outputs.items()}},
            "limits": {"max_length": model.processor.max_length},
            PROCESSOR: model.processor.portable(),
            "metrics": {},
            "versions": versions(),
        }  # fmt: skip
        put_text(work / "README.md", model_card(manifest))
        put_text(work / MANIFEST, sealed_text({**manifest, "files": sealed_files(work)}))
        publish(work, folder)


def copy_model(source: Path, folder: Path, *, run: bool = False) -> None:
    """Copy a saved model's own files, not the checkpoints and logs of a run around it. folder: takes the model in place of what
    was there at once; or, `run`, the folder of the run that made it, whose files become links. Raises ArtifactError, OutputError."""
    manifest = read_manifest(source)
    check_files(source, manifest, weights=not run)
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; a model is a folder")
    with staged(folder, inside=run) as work:
        for name in dict.fromkeys((*manifest["files"], MANIFEST)):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            _link(source / name, work / name) if run else shutil.copyfile(source / name, work / name)
        publish(work, folder)


def attach(artifact: Artifact, work: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Give a saved model a folder of further files, `name`, from one staged inside the model's. slimpajama.json gets `facts` under
    that name; what was there under it before is gone. A crash leaves the model without that folder or with it. Raises OutputError."""
    folder, manifest = artifact.folder, artifact.manifest
    # Checked whenever it is run, and a first answer would wait for sha256.
    own = {f"{name}/{path}": entry for path, entry in sealed_files(work, "xxh3_128").items()}
    without = {k: v for k, v in manifest.items() if k != name}
    kept = manifest.get("files")
    if isinstance(kept, dict):
        kept = {k: v for k, v in kept.items() if not k.startswith(f"{name}/")}
        without["files"] = kept
    with disk_errors(folder):
        if without != manifest:
            write_text(folder / MANIFEST, sealed_text(without))
        replace_folder(work, folder / name)
    manifest.update(without)
    manifest[name] = json.loads(json.dumps(facts))
    if PROCESSOR not in manifest and (portable := artifact.model.processor.portable()) is not None:
        manifest[PROCESSOR] = dict(portable)
    if isinstance(kept, dict):
        manifest["files"] = {**kept, **own}
    write_text(folder / MANIFEST, sealed_text(manifest))


def add_to_card(artifact: Artifact, title: str, lines: Sequence[str]) -> None:
    """Put a section into a saved model's README.md, in place of one of that title. Raises OutputError."""
    file, heading = artifact.folder / TEXTS[0], f"## {title}"
    old = file.read_text(encoding="utf-8") if file.is_file() else ""
    before, _, after = f"{old}\n".partition(f"{heading}\n")
    rest = after.partition("\n## ")[1] + after.partition("\n## ")[2]
    text = f"{before.rstrip()}\n\n{heading}\n\n" + "\n".join(lines) + f"\n{rest.rstrip()}"
    manifest, files = artifact.manifest, artifact.manifest.get("files")
    with disk_errors(artifact.folder):
        write_text(file, text.rstrip() + "\n")
        if isinstance(files, dict):  # it is a change of ours, of which nobody need be told
            files[TEXTS[0]] = {"bytes": file.stat().st_size, "sha256": digest(file, "sha256")}
            write_text(artifact.folder / MANIFEST, sealed_text(manifest))


def publish(work: Path, folder: Path) -> None:
    """Put a finished model, staged beside or inside `folder`, in its place. From beside it takes the whole folder's place at once,
    with what else was there. From inside its files are moved: config.json next to last, without which nobody opens a model, then
    slimpajama.json. Raises OutputError."""
    sync_tree(work)
    with disk_errors(folder):
        if work.parent != folder:
            with locked(folder) if (folder / RUN).is_file() else contextlib.nullcontext():
                _keep_others(folder, work)
                replace_folder(work, folder)
            return
        for name in (MANIFEST, CONFIG):
            (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
        for path in sorted(work.iterdir(), key=lambda p: (p.name == MANIFEST, p.name == CONFIG)):
            if path.name in (MANIFEST, CONFIG):
                sync_folder(folder)
            remove(folder / path.name)
            path.rename(folder / path.name)
        sync_folder(folder)


def _keep_others(folder: Path, work: Path) -> None:
    """Link what lies in `folder`, and is not the model there, into `work`."""
    if not folder.is_dir():
        return
    names = (*read_manifest(folder)["files"], MANIFEST) if (folder / MANIFEST).is_file() else ()
    model = {LOCK, *(name.partition("/")[0] for name in names)}
    for path in folder.iterdir():
        if path.name in model or path.name.startswith(LEFTOVERS) or (work / path.name).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, work / path.name, symlinks=True, copy_function=_link)
        else:
            _link(path, work / path.name)
    sync_tree(work)


def _link(source: str | Path, target: str | Path) -> None:
    """Another name for a file, or a copy where the file system has no links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        log.debug("%s: copied, not linked: %s", target, reason(error))
        shutil.copy2(source, target, follow_symlinks=False)


def describe_run(session: Session, metrics: Mapping[str, float], step: int) -> dict[str, Any]:
    """What slimpajama.json says."""
    recipe, registry = session.recipe, session.registry
    assert recipe.task is not None
    used = [(kind, part.use) for kind, part in (("model", recipe.model), ("task", recipe.task), ("precision", recipe.precision),
            ("strategy", recipe.strategy), ("optimizer", recipe.optimizer), ("schedule", recipe.schedule),
            *(("dataset", part) for part in recipe.data.parts.values()))]  # fmt: skip
    plugins = {}
    for kind, name in used:
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
        PROCESSOR: session.plan.model.processor.portable(),
        "metrics": dict(metrics),
        "steps": step,
        "data": {"train": session.train.fingerprint, "eval": session.eval.fingerprint if session.eval else None},
        "recipe": recipe.to_json(),
        "plugins": plugins,
        "versions": versions(),
    }  # fmt: skip


@functools.cache
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
    family, version = manifest["model"]["family"], manifest["versions"]["slimpajama"]
    tags = {"sequence": "text-classification", "token": "token-classification", "span": "question-answering"}.get(
        manifest["head"]["kind"]
    )
    front = ["---", "library_name: transformers", *([f"pipeline_tag: {tags}"] if tags else []), "---"]
    body = [
        "",
        f"# {Path(base).name or base or family}, {task}",
        "",
        f"`{base}` fine-tuned for {task} with slimpajama {version}."
        if base
        else f"A model of family `{family}`, trained from nothing for {task} with slimpajama {version}.",
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
