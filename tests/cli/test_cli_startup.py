"""What a shell sees: how soon, what is loaded for it, exit codes. Each command runs in a process of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "transformers", "datasets", "pyarrow", "sklearn", "scipy", "tokenizers", "huggingface_hub")
Done = subprocess.CompletedProcess[str]

PLUGIN = """
from spcore.components import Component
from spcore.hooks import hookimpl
SPCORE_API = "1.0"
@hookimpl
def spcore_components():
    return [
        Component("command", "greet", "sp_cli_commands:greet", "Say hello to somebody."),
        Component("command", "fail", "sp_cli_commands:fail", "Fail in a way of your choice."),
        Component("command", "lost", "sp_cli_no_such_module:run", "Cannot be imported."),
        Component("command", "needy", "sp_cli_commands:greet", "Needs more.", requires=("no-such-engine>=2",)),
    ]
"""
COMMANDS = """
import logging
import spcore.errors as errors
def greet(name: str, loud: bool = False) -> None:
    logging.getLogger("slimpajama.greet").warning("greeting")
    print(name.upper() if loud else name)
def fail(kind: str) -> None:
    raise getattr(errors, kind)("it failed", hint="Do this") if hasattr(errors, kind) else RuntimeError("a bug")
"""


def on_path(folder: Path) -> dict[str, str]:
    """The environment with a folder first on the path."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "COLUMNS": "100",
    }


def distribution(folder: Path, name: str, points: Mapping[str, str]) -> None:
    """A dist-info folder, as pip leaves it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spcore]\n" + "".join(f"{n} = {value}\n" for n, value in points.items()))


@pytest.fixture
def in_tree(tmp_path: Path) -> dict[str, str]:
    """An environment in which the plugins of this repository are installed: as pip did, else by a dist-info made here."""
    points: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["spcore"]
    if {p.name for p in importlib.metadata.entry_points(group="spcore")} < set(points):
        distribution(tmp_path, "in_tree", {n: value for n, value in points.items() if _there(value)})
    return on_path(tmp_path)


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture
def third_party(tmp_path: Path) -> dict[str, str]:
    """An environment with somebody's plugin that adds commands."""
    distribution(tmp_path, "sp_cli", {"cli-test": "sp_cli_plugin"})
    (tmp_path / "sp_cli_plugin.py").write_text(PLUGIN)
    (tmp_path / "sp_cli_commands.py").write_text(COMMANDS)
    return on_path(tmp_path)


def slimpajama(*args: str, env: Mapping[str, str] | None = None) -> Done:
    """Run the command line."""
    command = [sys.executable, "-m", "slimpajama", *args]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=dict(env or os.environ), stdin=subprocess.DEVNULL
    )


def seconds(args: Sequence[str], env: Mapping[str, str] | None = None, runs: int = 5) -> float:
    """Median over runs of a process's time: the processor's where others keep the machine busy, which is then the smaller."""
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        pid = os.posix_spawn(sys.executable, [sys.executable, *args], dict(env or os.environ), file_actions=silent)
        _, status, usage = os.wait4(pid, 0)
        assert status == 0
        found.append(min(time.perf_counter() - began, usage.ru_utime + usage.ru_stime))
    return statistics.median(found)


def loaded(env: Mapping[str, str], code: str) -> set[str]:
    """Modules that are loaded after `code`."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit as end:\n    assert not end.code, end.code\nprint('\\n' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=dict(env))
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def command(*args: str) -> str:
    """Code that runs the command line in its own process."""
    return f"sys.argv = {['slimpajama', *args]!r}; from spcore.cli import main; main()"


def tolerance() -> float:
    """How many times slower than a plain machine this one is now: bare Python starts there in 20 ms."""
    return max(1.0, seconds(["-c", "pass"]) / 0.020)


def test_help_takes_less_than_a_third_of_a_second(in_tree: dict[str, str]) -> None:
    seconds(["-m", "slimpajama", "--help"], in_tree, runs=1)  # the first run compiles
    limit, took = 0.35 * tolerance(), seconds(["-m", "slimpajama", "--help"], in_tree)
    assert took < limit, f"--help took {took:.3f} s, {limit:.3f} s are allowed"


def test_import_takes_less_than_a_tenth_of_a_second_more_than_python(in_tree: dict[str, str]) -> None:
    seconds(["-c", "import slimpajama"], in_tree, runs=1)
    bare = seconds(["-c", "pass"], in_tree, runs=7)
    took = seconds(["-c", "import slimpajama"], in_tree, runs=7) - bare
    assert took < 0.1 * max(1.0, bare / 0.020), f"import slimpajama took {took:.3f} s more than python's {bare:.3f} s"


@pytest.mark.parametrize("package", ["slimpajama", "spcore"])
def test_import_loads_the_standard_library_only(package: str, in_tree: dict[str, str]) -> None:
    more = loaded(in_tree, f"import {package}") - loaded(in_tree, "pass")
    foreign = {name.partition(".")[0] for name in more} - set(sys.stdlib_module_names)
    assert foreign <= {"slimpajama", "spcore"}
    assert package in foreign


@pytest.mark.parametrize(
    "args", [("--help",), ("run", "--help"), ("plugins", "--help"), ("--version",), ("plugins", "list", "--json")]
)
def test_help_and_lists_load_nothing_heavy(args: tuple[str, ...], in_tree: dict[str, str]) -> None:
    found = loaded(in_tree, command(*args))
    assert not found & set(HEAVY)
    parts = "from spcore.components import Registry; sys.stdout.write('\\n'); print(*(c.target for _, c in Registry().components()))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {parts}"], capture_output=True, text=True, check=True, env=in_tree
    )
    targets = {target.partition(":")[0] for target in done.stdout.split()}
    assert not targets & found, "no implementation is imported"


def test_plugins_list_tells_plugins_and_components(in_tree: dict[str, str]) -> None:
    done = slimpajama("plugins", "list", "--json", env=in_tree)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert {p["name"]: p["error"] for p in told["plugins"] if p["error"]} == {}
    assert all(c["summary"] for c in told["components"])
    lines = slimpajama("plugins", "list", env=in_tree).stdout
    for component in told["components"]:
        assert component["name"] in lines
        assert component["summary"] in lines


def test_commands_of_plugins(third_party: dict[str, str]) -> None:
    done = slimpajama("greet", "Ann", "--loud", env=third_party)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ANN\n", "WARNING greeting\n"), (
        "results on stdout, words on stderr"
    )


def test_help_lists_plugins_commands_without_importing_them(third_party: dict[str, str]) -> None:
    """And a command that cannot be imported, or lacks a distribution, costs nobody the help."""
    done = slimpajama("--help", env=third_party)
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("greet", "Say hello to somebody.", "lost", "Cannot be imported.", "needy", "Needs more.", "finetune"):
        assert words in done.stdout
    assert "sp_cli_commands" not in loaded(third_party, command("--help"))


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("DataError", 2, "error: it failed. Do this\n"), ("ComponentError", 2, "error: it failed. Do this\n"),
        ("OutputError", 1, "error: it failed. Do this\n"), ("CheckpointError", 1, "error: it failed. Do this\n"),
        ("RunCancelled", 130, "error: it failed. Do this\n"),
    ],
)  # fmt: skip
def test_exit_codes(kind: str, code: int, said: str, third_party: dict[str, str]) -> None:
    done = slimpajama("fail", kind, env=third_party)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


def test_a_bug_is_a_traceback_and_exit_code_1(third_party: dict[str, str]) -> None:
    done = slimpajama("fail", "Bug", env=third_party)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("RuntimeError: a bug\n")


@pytest.mark.parametrize(
    ("name", "words"), [("lost", "sp_cli_no_such_module"), ("needy", "needs no-such-engine>=2: pip install")]
)
def test_a_command_that_cannot_be_loaded(name: str, words: str, third_party: dict[str, str]) -> None:
    done = slimpajama(name, env=third_party)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_broken_plugin_leaves_the_rest_working(tmp_path: Path) -> None:
    distribution(tmp_path, "sp_broken", {"broken-one": "sp_cli_broken"})
    (tmp_path / "sp_cli_broken.py").write_text("raise SystemExit('no licence')")
    env = on_path(tmp_path)
    assert slimpajama("--help", env=env).returncode == 0
    done = slimpajama("plugins", "list", env=env)
    assert done.returncode == 0
    assert "broken: plugin 'broken-one' (sp_cli_broken, sp_broken): SystemExit: no licence" in done.stdout


@pytest.fixture
def scripts(tmp_path: Path) -> Callable[..., Done]:
    """The console scripts, made as pip makes them: scripts("sp", "--version")."""

    def run(name: str, *args: str, **env: str) -> Done:
        file = tmp_path / name
        file.write_text(
            f"#!{sys.executable}\nimport sys\nfrom spcore.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
        )
        file.chmod(0o755)
        return subprocess.run(
            [str(file), *args], capture_output=True, text=True, check=False, env={**os.environ, **env}
        )

    return run


def test_version_under_every_name(scripts: Callable[..., Done]) -> None:
    from spcore import __version__

    for done in (slimpajama("--version"), scripts("slimpajama", "--version"), scripts("sp", "--version")):
        assert (done.returncode, done.stdout, done.stderr) == (0, f"slimpajama {__version__}\n", "")


@pytest.mark.parametrize("name", ["slimpajama", "sp"])
def test_completion(name: str, scripts: Callable[..., Done]) -> None:
    shown = scripts(name, "--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shown.returncode == 0
    variable = f"_{name.upper()}_COMPLETE"
    assert f"{variable}=complete_bash" in shown.stdout
    assert f"complete -o default -F _{name}_completion {name}" in shown.stdout
    found = scripts(name, COMP_WORDS=f"{name} plug", COMP_CWORD="1", **{variable: "complete_bash"})
    assert found.stdout.split() == ["plugins"]


def test_a_reader_that_goes_away_leaves_no_traceback(third_party: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "slimpajama", "plugins", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=third_party,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_an_interrupt_while_python_ends_leaves_no_traceback(in_tree: dict[str, str]) -> None:
    """The third Ctrl-C of somebody in a hurry: libraries' handlers at exit are running then."""
    ends = "import atexit, os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); atexit.register(os.kill, os.getpid(), signal.SIGINT)"
    done = subprocess.run(
        [sys.executable, "-c", f"{ends}; {command('--version')}"],
        capture_output=True,
        text=True,
        check=False,
        env=in_tree,
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""
