"""Where programs call from: notebooks, `python -c`, standard input, threads, event loops, forked processes, pytest's workers."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import slimpajama
from embed.tools import CHILDREN, ROOT, ROWS, TEXTS, Told, finetune, places, program, run_program
from spcore.tensors import process, rng

HERE = f"""
import json, sys
sys.path[:0] = {places()}
import slimpajama
steps = []
model = slimpajama.load_model(MODEL)
model.finetune(ROWS, "text-classification", epochs=1, batch_size=6, progress=False, settings=HOW,
               on_event=lambda event: steps.append(event.loss) if event.name == "step" else None)
print(json.dumps([steps, model.predict(["a good film"])]))
"""
"""A program of a user's own that has found the packages by itself. It has no `if __name__ == "__main__"`."""
NOTEBOOK = """
import sys, types
names = {"__name__": "__main__", "__doc__": None, "In": [], "Out": {}}
sys.modules["__main__"] = types.SimpleNamespace(**names)
for cell in json.loads(CELLS):
    exec(compile(cell, "<ipython-input>", "exec"), names)
"""
"""A notebook's kernel, as far as programs see it: cells in a namespace without a file."""


def code(model: str, how: dict[str, Any]) -> str:
    given = {"MODEL": model, "ROWS": ROWS, "HOW": {"device": "cpu", **how}}
    return "".join(f"{name} = {value!r}\n" for name, value in given.items()) + HERE


def cells(*texts: str) -> str:
    """A program that runs them as a notebook's."""
    return f"import json\nCELLS = {json.dumps(texts)!r}\n{NOTEBOOK}"


def written(way: str, model: str, how: dict[str, Any], folder: Path) -> str:
    """What the program prints, run in a way."""
    text = code(model, how)
    if way == "-c":
        return program(["-c", text], path=False, cwd=folder)
    if way == "script":
        (folder / "script.py").write_text(text)
        return program([str(folder / "script.py")], path=False, cwd=folder)
    if way == "notebook":
        text = cells(*text.splitlines(keepends=True)[:3], HERE)
    return program(["-"], stdin=text, path=False, cwd=folder)


@pytest.fixture(scope="module")
def expected(tiny: str) -> list[Any]:
    """Losses and answers, of this process."""
    told = Told()
    model = slimpajama.load_model(tiny)
    model.finetune(
        ROWS, "text-classification", epochs=1, batch_size=6, progress=False, on_event=told, settings={"device": "cpu"}
    )
    return [[loss for _, loss, _ in told.losses], model.predict(["a good film"])]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["-c", "stdin", "notebook"])
def test_in_one_process(way: str, tiny: str, expected: list[Any], tmp_path: Path) -> None:
    assert json.loads(written(way, tiny, {}, tmp_path)) == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("way", ["-c", "stdin", "script", "notebook"])
def test_in_two(way: str, tiny: str, tmp_path: Path) -> None:
    """Whoever calls is not run again by the processes."""
    steps, answers = json.loads(written(way, tiny, CHILDREN, tmp_path))
    assert len(steps) == 3
    assert answers[0].keys() == {"label", "score"}


FAKES = f"""
import sys
sys.path[:0] = {[str(ROOT / "tests"), *places()]}
import slimpajama
from embed.parts import RECIPE, registry_of
print(slimpajama.run({{**RECIPE, "schedule": "constant"}}, registry=registry_of()).steps)
"""


def test_in_two_from_a_notebook(tmp_path: Path) -> None:
    """Nor are a notebook's cells."""
    assert program(["-"], stdin=cells(FAKES), path=False, cwd=tmp_path) == "4\n"


def test_from_an_event_loop(tiny: str) -> None:
    """In an executor, while the loop goes on; cancelled from there."""

    async def main() -> tuple[slimpajama.RunResult, int]:
        loop, cancel, steps = asyncio.get_running_loop(), threading.Event(), asyncio.Queue[int]()
        model = slimpajama.load_model(tiny)

        def told(event: Any) -> None:
            if event.name == "step":
                loop.call_soon_threadsafe(steps.put_nowait, event.step)

        def trains() -> slimpajama.RunResult:
            return model.finetune(
                ROWS, "text-classification", epochs=5000, progress=False, on_event=told, cancel=cancel,
                settings={"device": "cpu"},
            )  # fmt: skip

        running = loop.run_in_executor(None, trains)
        heard = [await asyncio.wait_for(steps.get(), 60) for _ in range(3)]
        cancel.set()
        return await asyncio.wait_for(running, 60), heard[-1]

    result, heard = asyncio.run(main())
    assert result.cancelled
    assert heard == 3
    assert 3 <= result.steps < 5000


FORKED = """
import os, sys, threading
import torch
from embed.tools import TEXTS, finetune
import slimpajama
used, threads, model = sys.argv[1] == "used", int(sys.argv[2]), slimpajama.load_model(sys.argv[3])
torch.set_num_threads(threads)
if used:
    model.predict(TEXTS)
child = os.fork()
if not child:
    if sys.argv[4:]:
        torch.set_num_threads(int(sys.argv[4]))
    try:
        print(model.predict(TEXTS)[0].keys(), flush=True)
    except slimpajama.RefusalError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def saved(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(finetune(tiny).save(tmp_path_factory.mktemp("callers") / "saved"))


@pytest.mark.parametrize(
    ("arguments", "works"),
    [
        pytest.param(("fresh", "2"), True, id="before anything computed"),
        pytest.param(("used", "2"), False, id="after torch had several threads"),
        pytest.param(("used", "2", "1"), True, id="after that, on one thread"),
        pytest.param(("used", "1"), True, id="after torch had one"),
    ],
)
@pytest.mark.slow
def test_in_a_forked_process(arguments: tuple[str, ...], works: bool, saved: str) -> None:
    """torch's threads stay in the parent: where it has had any, the child would wait for them for ever, and is refused."""
    done = program(["-c", FORKED, *arguments[:2], saved, *arguments[2:]])
    assert ("dict_keys" in done) == works, done
    assert works or "this process was forked from one that had computed with torch" in done


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_fork(job: Callable[[], Any]) -> Any:
    """What a job gives in a process forked from this one."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(job()))
    child.start()
    assert ours.poll(30), "it hangs"
    found = ours.recv()
    child.join(30)
    return found


def test_a_forked_process_is_told_of_the_threads_it_lacks(two_threads: None) -> None:
    with process.computing():
        pass

    def asks() -> list[str]:
        said = []
        for threads in (2, 1):
            torch.set_num_threads(threads)
            try:
                process.ready()
                said.append("ready")
            except slimpajama.RefusalError as error:
                said.append(str(error))
        return said

    refused, ready = in_fork(asks)
    assert refused.startswith("this process was forked from one that had computed with torch, whose threads are gone")
    assert "torch.set_num_threads(1)" in refused
    assert ready == "ready"
    process.ready()


def test_a_fork_waits_for_the_step_that_computes() -> None:
    """Else the child's generators would be the engine's, and its lock held by a thread that is not there."""
    cpu, inside, leave = torch.device("cpu"), threading.Event(), threading.Event()
    before, engine_s = torch.get_rng_state(), rng.seeded(9, cpu)

    def steps() -> None:
        with process.computing(), rng.swapped(engine_s, cpu):
            inside.set()
            leave.wait(20)

    def computes() -> tuple[bool, Any]:
        with process.computing():
            return leave.is_set(), torch.get_rng_state().tolist()

    stepping = threading.Thread(target=steps)
    stepping.start()
    inside.wait(20)
    threading.Timer(0.3, leave.set).start()
    assert in_fork(computes) == (True, before.tolist())
    stepping.join(20)


WORKERS = """
import pytest
from embed.tools import finetune

@pytest.mark.parametrize("seed", range(4))
def test_it(seed, tmp_path):
    handle = finetune({tiny!r}, train={{"train.seed": seed % 2}}, output=tmp_path / "run")
    assert handle.predict("a good film") == {answers}[seed % 2]
"""


@pytest.mark.slow
def test_under_pytest_s_workers(tiny: str, tmp_path: Path) -> None:
    answers = [finetune(tiny, train={"train.seed": seed}).predict("a good film") for seed in range(2)]
    (tmp_path / "test_workers.py").write_text(WORKERS.format(tiny=tiny, answers=answers))
    flags = ["-q", "-p", "no:cacheprovider", "-W", "error", "-n", "2", "--rootdir", str(tmp_path)]
    done = run_program(["-m", "pytest", *flags, str(tmp_path / "test_workers.py")], cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_a_caller_who_goes_elsewhere(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model opened by a relative path is that folder's, wherever the program is when its weights are read."""
    saved = finetune(tiny).save(tmp_path / "here" / "saved")
    there = tmp_path / "over" / "there"
    there.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    handle, plain = slimpajama.load_model("saved"), slimpajama.load_model(os.path.relpath(tiny))
    monkeypatch.chdir(there)
    assert handle.predict(TEXTS) == slimpajama.load_model(saved).predict(TEXTS)
    assert plain.embed(TEXTS).shape == (len(TEXTS), 32)
    plain.finetune(ROWS, "text-classification", epochs=1, progress=False)
