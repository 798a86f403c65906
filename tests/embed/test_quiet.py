"""Nothing printed, nothing seized: what the code says, and what a terminal shows."""

from __future__ import annotations

import ast
import os
import pty
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import slimpajama
from embed.tools import ROOT, ROWS, finetune, places, program
from spcore import bars
from support.hub import Hub
from support.hub_content import put_glue, put_model

SEIZING = {
    "print", "input", "exit", "quit", "sys.exit", "os._exit", "os.chdir", "os.putenv", "os.umask", "os.fork", "logging.basicConfig",
    "logging.disable", "logging.captureWarnings", "logging.config.dictConfig", "signal.signal", "signal.set_wakeup_fd",
    "warnings.filterwarnings", "warnings.simplefilter", "faulthandler.enable", "locale.setlocale", "random.seed", "random.setstate",
    "np.random.seed", "torch.manual_seed", "torch.set_rng_state", "torch.set_num_threads", "torch.set_num_interop_threads",
    "torch.set_default_dtype", "torch.set_default_device", "torch.set_float32_matmul_precision", "torch.use_deterministic_algorithms",
    "transformers.set_seed", "socket.setdefaulttimeout", "sys.setrecursionlimit", "multiprocessing.set_start_method", "atexit.register",
}  # fmt: skip
ALLOWED = {
    # A process of our own.
    "spcore/launching/worker.py": {"logging.basicConfig", "signal.signal", "os._exit", "torch.set_num_threads"},
    "plugins/spcore_ray/driver.py": {"print", "signal.signal", "os._exit"},
    "plugins/spcore_slurm/launcher.py": {"signal.signal"},
    "spcore/working.py": {"signal.signal"},
    # Put back, see test_left_alone.
    "backends/spcore_megatron/indexed_files.py": {"warnings.simplefilter"},
    "backends/spcore_megatron/launching.py": {"warnings.filterwarnings"},
    "backends/spcore_megatron/shim.py": {"torch.set_rng_state"},  # in processes of its own
    "backends/spcore_onnx/quantise.py": {"the root logger"},
    "backends/spcore_onnx/tracing.py": {"warnings.simplefilter"},
    "backends/spcore_torch/shards.py": {"torch.set_rng_state"},  # within a pass, when the engine has the generators
    "plugins/spcore_lm_eval/harness.py": {"random.seed", "np.random.seed", "random.setstate"},
    "spcore/imports.py": {"random.setstate"},
    "spcore/tensors/process.py": {"torch.set_num_threads"},
    "spcore/tensors/rng.py": {"torch.manual_seed", "torch.set_rng_state"},
    "spcore/tensors/state.py": {"warnings.filterwarnings"},
}
ENVIRONMENT = {"spcore/imports.py", "backends/spcore_torch/env.py", "plugins/spcore_slurm/launcher.py"}
"""Where variables of the environment are set, and put back."""


def sources() -> Iterator[Path]:
    """What an embedder uses: all but the command line and the kit for plugin authors."""
    for folder in ("spcore", "plugins", "backends"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not {"cli", "testing"} & set(path.relative_to(ROOT).parts):
                yield path


def name_of(node: ast.expr) -> str:
    return f"{name_of(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def seized(path: Path) -> set[str]:
    """What a file calls, or sets, that is the whole process's."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found |= {name_of(node.func)} & SEIZING
            root = name_of(node.func) == "logging.getLogger" and not node.args
            found |= {"the root logger"} if root else set()
            changes = name_of(node.func) in {"os.environ.update", "os.environ.pop", "os.environ.setdefault"}
            found |= {"os.environ"} if changes else set()
        for target in getattr(node, "targets", []):
            if isinstance(target, ast.Subscript) and name_of(target.value) == "os.environ":
                found.add("os.environ")
            elif name_of(target).startswith(("sys.", "torch.backends.", "warnings.")):
                found.add(name_of(target))
    return found


def test_no_code_that_an_embedder_runs_seizes_what_is_the_process_s() -> None:
    found = {str(path.relative_to(ROOT)): seized(path) for path in sources()}
    assert len(found) > 80
    allowed = {name: ALLOWED.get(name, set()) | ({"os.environ"} if name in ENVIRONMENT else set()) for name in found}
    assert {name: calls - allowed[name] for name, calls in found.items() if calls - allowed[name]} == {}
    assert {name for name in ALLOWED if not found[name]} == set(), "allowed for nothing"


def test_this_test_sees_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import logging, os, sys\nprint(1)\nlogging.getLogger().setLevel(1)\nos.environ['A'] = '1'\nsys.argv = []\n"
    )
    assert seized(tmp_path / "bad.py") == {"print", "the root logger", "os.environ", "sys.argv"}


LOGGERS = """
import logging, sys
import slimpajama
slimpajama.load_model(sys.argv[1]).finetune([{"text": "a film", "label": "x"}, {"text": "a book", "label": "y"}], "text-classification", epochs=1, progress=False)
ours = ("slimpajama", "spcore")
known = {n: x for n, x in logging.root.manager.loggerDict.items() if n.startswith(ours) and isinstance(x, logging.Logger)}
print([name for name in known if not name.startswith("slimpajama")])
print([name for name, x in known.items() if x.handlers or x.level or x.filters or not x.propagate])
"""


def test_loggers_are_below_ours(tiny: str, tmp_path: Path) -> None:
    """And have neither handlers nor levels of their own; in a process of its own, where no command was called before."""
    assert program(["-c", LOGGERS, tiny], cwd=tmp_path).split() == ["[]", "[]"]


def test_nothing_is_written_and_nothing_warned_of(tiny: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle = finetune(tiny, output=tmp_path / "run")
        handle.evaluate(ROWS)
        handle.predict("a film")
        handle.save(tmp_path / "saved")
    assert capfd.readouterr() == ("", "")


DOWNLOADS = """
import sys
import slimpajama
slimpajama.finetune("test/tiny", {"use": "glue", "name": "sst2"}, epochs=1, progress=sys.argv[1] == "on")
"""


@pytest.mark.parametrize("progress", ["off", pytest.param("on", marks=pytest.mark.slow)])
def test_a_terminal_shows_no_library_s_bars_where_progress_is_off(progress: str, tiny: str, tmp_path: Path) -> None:
    """All that a first run does: downloads of a model and of a data set, and the data set's conversion."""
    put_model(tmp_path / "hub", "test/tiny", Path(tiny))
    rows = [{"sentence": f"a film {n}", "label": n % 2, "idx": n} for n in range(16)]
    put_glue(tmp_path / "hub", "sst2", rows, rows)
    with Hub(tmp_path / "hub") as hub:
        shown = on_terminal(
            ["-c", DOWNLOADS, progress], tmp_path, HF_HOME=str(tmp_path / "home"), HF_ENDPOINT=hub.endpoint
        )
        assert any("model.safetensors" in path for _, path, _ in hub.requests), "nothing was downloaded"
    assert bool(shown) == (progress == "on"), shown


def on_terminal(arguments: list[str], folder: Path, **env: str) -> str:
    """What a program that ends in order shows on a terminal."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(places()), "HF_HUB_DISABLE_TELEMETRY": "1", **env}
    seen: list[bytes] = []

    def reads() -> None:
        try:
            while data := os.read(ours, 4096):
                seen.append(data)
        except OSError:  # nobody is at the other end any more
            return

    reader = threading.Thread(target=reads)
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as program:
        os.close(theirs)
        reader.start()
        code = program.wait(200)
        reader.join(20)
    os.close(ours)
    shown = b"".join(seen).decode()
    assert code == 0, shown
    return shown


class Library:
    """One with bars."""

    def __init__(self, off: bool = False) -> None:
        self.is_off, self.calls = off, 0

    def off(self) -> None:
        self.is_off, self.calls = True, self.calls + 1

    def on(self) -> None:
        self.is_off = False

    def are_off(self) -> bool:
        return self.is_off


def test_bars_come_back_when_the_last_of_several_threads_is_through() -> None:
    library = Library()
    off, on, are_off = library.off, library.on, library.are_off
    with bars.silent():
        one, other = bars.of_library(off, on, are_off), bars.of_library(off, on, are_off)
        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        assert library.is_off
        other.__exit__(None, None, None)
    assert not library.is_off


def test_bars_that_the_program_turned_off_stay_off() -> None:
    library = Library(off=True)
    with bars.silent(), bars.of_library(library.off, library.on, library.are_off):
        assert library.is_off
    assert library.is_off
    assert library.calls == 0


def test_a_run_s_bars_are_its_logger_s() -> None:
    recipe = {"model": "m", "task": "text-classification", "data": {"source": "rows.csv"}}
    registry = slimpajama.default_registry()
    for loggers, shown in (
        ([], False),
        (["jsonl"], False),
        (["progress"], True),
        ([{"use": "loggers:progress"}], True),
    ):
        found = slimpajama.load_recipe({**recipe, "loggers": loggers}, registry=registry)
        assert bars.shows_progress(found, registry) == shown
