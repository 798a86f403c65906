"""A fault at every single operation of saving a model: nothing torn ever opens, the old model or the new one is there, and a run
that was saving its own finishes when it is started again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from crash.fake_runs import files_of, made, recipe, registry_of_fakes
from crash.faulty_disk import Crash, FaultyDisk, Kind, count, faulty
from crash.test_checkpoint_faults import harmed
from spcore import files
from spcore.artifact import copy_model, open_artifact, open_model, write_artifact
from spcore.errors import ArtifactError, OutputError
from spcore.interfaces.strategy import Place
from spcore.running import execute
from spcore.session import assemble
from spcore.tensors.files import load_safetensors

REGISTRY = registry_of_fakes()


def opened(folder: Path) -> int:
    """The steps of the model in a folder, every byte of it checked."""
    artifact = open_artifact(folder, REGISTRY)
    assert len(list(load_safetensors(folder))) == 10
    steps = artifact.manifest["steps"]
    assert json.loads((folder / "report.json").read_text()) == {"steps": steps}
    return int(steps)


@dataclass
class Case:
    """A folder that may hold a model of 1 step; `save` puts one of 2 there. after: what opening may give, None for nothing."""

    root: Path
    folder: Path
    reset: Callable[[], object]
    save: Callable[[], object]
    after: set[int | None]

    def found(self) -> int | None:
        """The model in the folder. Where there is none, what another tool opens is whole."""
        if (self.folder / "slimpajama.json").is_file() or not self.folder.exists():
            return opened(self.folder)
        with pytest.raises(ArtifactError, match="not finished"):
            open_model(str(self.folder), REGISTRY)
        if (self.folder / "config.json").exists():  # transformers opens this
            assert {"fake_processor.json", "README.md", "report.json"} <= {p.name for p in self.folder.iterdir()}
            assert len(list(load_safetensors(self.folder))) == 10
        return None


def saver(output: Path, steps: int) -> Callable[[Path], None]:
    """Writes a model of so many steps as the trainer of a run in `output` does."""
    session = assemble(made(recipe(output), REGISTRY), REGISTRY)
    engine = session.strategy.engine(session.plan, Place())
    engine.steps = steps  # type: ignore[attr-defined]  # the fake's
    weights = list(engine.weights())

    def write(folder: Path) -> None:
        report = {"steps": steps}
        write_artifact(folder, session, weights, writer=True, metrics={}, step=steps, report=report)

    return write


def final(root: Path) -> Case:
    """The model of a run, into its folder."""
    run = root / "run"

    def reset() -> None:
        (run / "checkpoints" / "step-00000002").mkdir(parents=True)
        (run / "checkpoints" / "step-00000002" / "state").write_text("good")
        (run / "run.json").write_text("{}")
        (run / "recipe.yaml").write_text("")
        (run / "metrics.jsonl").write_text("")

    write = saver(run, 2)
    return Case(root, run, reset, lambda: write(run), {2, None})


def final_again(root: Path) -> Case:
    """The same, where an earlier try was cut off between config.json and slimpajama.json."""
    case, write = final(root), saver(root / "run", 1)
    first = case.reset

    def reset() -> None:
        first()
        write(root / "run")
        (root / "run" / "slimpajama.json").unlink()
        (root / "run" / "config.json").unlink()

    return Case(root, case.folder, reset, case.save, {2, None})


def best(root: Path) -> Case:
    """A better model of a run, in place of its best so far."""
    old, new = saver(root / "run", 1), saver(root / "run", 2)
    return Case(
        root, root / "run" / ".best", lambda: old(root / "run" / ".best"), lambda: new(root / "run" / ".best"), {1, 2}
    )


def best_moves(root: Path) -> Case:
    """A run's best model becomes the run's model."""
    case, write = final(root), saver(root / "run", 2)
    first = case.reset

    def reset() -> None:
        first()
        write(root / "run" / ".best")

    def save() -> None:
        copy_model(root / "run" / ".best", root / "run", run=True)

    return Case(root, case.folder, reset, save, {2, None})


def over(root: Path) -> Case:
    """A copy over a model that is there, with a file of the user's beside it."""
    old, new = saver(root / "none", 1), saver(root / "none", 2)

    def reset() -> None:
        old(root / "kept")
        new(root / "new")
        (root / "kept" / "notes").mkdir()
        (root / "kept" / "notes" / "mine.txt").write_text("mine")

    return Case(root, root / "kept", reset, lambda: copy_model(root / "new", root / "kept"), {1, 2})


def over_without_exchange(root: Path) -> Case:
    """The same on a file system where two folders cannot change names at once."""
    return over(root)


CASES = [final, final_again, best, best_moves, over, over_without_exchange]


@pytest.fixture(params=CASES, ids=[make.__name__ for make in CASES])
def case(request: pytest.FixtureRequest, quick: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    if request.param is over_without_exchange:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    made_case: Case = request.param(quick / "disk")
    return made_case


def anew(case: Case) -> None:
    """As before the save."""
    template = case.root.with_name("template")
    shutil.rmtree(case.root, ignore_errors=True)
    if not template.exists():
        case.root.mkdir()
        case.reset()
        case.root.rename(template)
    shutil.copytree(template, case.root)


def each(case: Case) -> range:
    """The numbers of the save's operations."""
    anew(case)
    operations = count(case.root, case.save)
    assert case.found() == 2
    assert len(operations) > 20
    return range(len(operations))


def kept(case: Case) -> None:
    """What lay beside the model is still there, and the next save succeeds and leaves nothing of this one."""
    for name, content in (("notes/mine.txt", "mine"), ("checkpoints/step-00000002/state", "good")):
        assert not (case.folder / name).parent.exists() or (case.folder / name).read_text() == content
    files.clear(case.folder)  # as the next start of a run does
    case.save()
    assert case.found() == 2
    assert [p for p in case.root.rglob(".w*") if p.name.startswith(".writing-")] == []


@pytest.mark.parametrize("kind", ["once", pytest.param("full", marks=pytest.mark.slow)])
def test_an_error_at_any_operation(case: Case, kind: Kind) -> None:
    for n in each(case):
        anew(case)
        said = None
        with faulty(FaultyDisk(case.root, n, kind)) as disk:
            try:
                case.save()
            except OutputError as error:
                said = str(error)
        where = f"operation {n}, {disk.operations[n]}"
        assert case.found() in case.after, where
        if said is None:
            assert case.found() == 2, where
        else:
            assert said.count("\n") == 0, where
            assert said.startswith(str(case.root)), where
        kept(case)


@pytest.mark.parametrize("power", [pytest.param("process gone", marks=pytest.mark.slow), "power gone"])
def test_a_crash_at_any_operation(case: Case, power: str) -> None:
    for n in each(case):
        anew(case)
        with faulty(FaultyDisk(case.root, n, "crash")) as disk, pytest.raises(Crash):
            case.save()
        if power == "power gone":
            disk.lose_power()
        assert case.found() in case.after, f"operation {n}, {disk.operations[n]}"
        kept(case)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model."""
    folder = tmp_path_factory.mktemp("models") / "model"
    saver(folder.parent / "none", 2)(folder)
    return folder


TEXTS = ("README.md", "report.json")


@pytest.mark.parametrize("harm", ["torn", "a bit flipped", "missing"])
@pytest.mark.parametrize("name", ["config.json", "fake_processor.json", "model.safetensors", "slimpajama.json", *TEXTS])
def test_harm_to_any_file_is_one_line_that_names_it(
    name: str, harm: str, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of what is for people alone a warning: they may edit it."""
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    assert set(files_of(folder)) == {
        "config.json",
        "fake_processor.json",
        "model.safetensors",
        "slimpajama.json",
        *TEXTS,
    }
    for content in harmed((model / name).read_bytes(), harm):
        caplog.clear()
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        if name in TEXTS:
            open_artifact(folder, REGISTRY)
            (said,) = [record.getMessage() for record in caplog.records]
        else:
            with pytest.raises(ArtifactError) as caught:
                opened(folder)
            said = str(caught.value)
        assert said.startswith(f"{folder / name}: ") or f"{folder}: no {name} there" in said
        assert "\n" not in said


def test_a_damaged_model_is_not_copied(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(ArtifactError, match=r"model\.safetensors: its checksum is not the manifest's"):
        copy_model(folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_change_on_purpose_is_accepted_as_the_error_says(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mine": 1}))
    with pytest.raises(ArtifactError, match=r'null and take "checksum" out$'):
        open_artifact(folder, REGISTRY)
    manifest = json.loads((folder / "slimpajama.json").read_text())
    del manifest["checksum"]
    manifest["files"]["config.json"] = None
    (folder / "slimpajama.json").write_text(json.dumps(manifest))
    assert opened(folder) == 2
    copy_model(folder, tmp_path / "copy")
    assert opened(tmp_path / "copy") == 2


def test_a_model_of_a_newer_version_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    (folder / "slimpajama.json").write_text('{"format": 7, "versions": {"slimpajama": "3.0"}}')
    with pytest.raises(ArtifactError) as caught:
        open_artifact(folder, REGISTRY)
    assert str(caught.value).startswith(f"{folder / 'slimpajama.json'}: format 7, written by slimpajama 3.0; this is ")
    assert str(caught.value).endswith(", which reads up to format 1. Install a newer slimpajama")


def test_a_run_that_crashed_while_it_saved_finishes_when_it_is_started_again(quick: Path) -> None:
    """At every sixth operation of the whole run, by the real trainer."""
    whole = execute(made(recipe(quick / "whole"), REGISTRY), REGISTRY)
    root = quick / "disk"
    root.mkdir()
    operations = count(root, lambda: execute(made(recipe(root / "run"), REGISTRY), REGISTRY))
    assert len(operations) > 100
    for n in range(3, len(operations), 6):
        shutil.rmtree(root)
        root.mkdir()
        with faulty(FaultyDisk(root, n, "crash")), pytest.raises(Crash):
            execute(made(recipe(root / "run"), REGISTRY), REGISTRY)
        if (root / "run" / "slimpajama.json").is_file():
            open_artifact(root / "run", REGISTRY)  # the last operations: the model is there, and whole
            with pytest.raises(OutputError, match="a finished run is there"):
                execute(made(recipe(root / "run"), REGISTRY), REGISTRY)
            continue
        again = execute(made(recipe(root / "run"), REGISTRY), REGISTRY)
        assert (again.steps, again.metrics) == (whole.steps, whole.metrics)
        same = (root / "run" / "model.safetensors").read_bytes() == (quick / "whole" / "model.safetensors").read_bytes()
        assert same, f"operation {n}, {operations[n]}"
        assert not [p for p in root.rglob("*") if p.name.startswith(files.LEFTOVERS)]
