"""The token cache: made once, by one process or several, the same to the bit; gone on with after a kill, mended where it is damaged."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from cached_texts import Failing, Texts, Unportable, command, settings
from core_fakes import WordTask

import spcore.bars as bars
import spcore.featurizing as featurizing
from spcore.errors import OutputError, RunError
from spcore.features import FeatureStore
from spcore.featurizing import featurize
from spcore.shards import whole_shards

SMALL = 40_000
"""Bytes of a shard: a few hundred rows."""


def same(left: FeatureStore, right: FeatureStore) -> None:
    """Equal in every number, shape and type, and in what was counted."""
    assert left.counts == right.counts
    assert (left.ids.tolist(), left.rows.tolist()) == (right.ids.tolist(), right.rows.tolist())
    assert left.lengths.tolist() == right.lengths.tolist()
    for i in range(len(left)):
        one, other = left[i], right[i]
        assert (one.id, one.row_id, one.length) == (other.id, other.row_id, other.length)
        assert list(one.arrays) == list(other.arrays)
        for name, array in one.arrays.items():
            np.testing.assert_array_equal(array, other.arrays[name], strict=True)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything is cached, by one process, in small shards; the folder of the key "key"."""
    monkeypatch.setenv("SLIMPAJAMA_CACHE", str(tmp_path / "cache"))
    for name, value in settings(1, SMALL).items():
        monkeypatch.setattr(featurizing, name, value)
    return tmp_path / "cache" / "features" / "key"


@pytest.fixture
def several(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `cache`, by two processes beside this one."""
    for name, value in settings(2, SMALL).items():
        monkeypatch.setattr(featurizing, name, value)
    return cache


def in_memory(source: Texts, task: WordTask) -> FeatureStore:
    return featurize(source, task, limit=None)


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "shards").iterdir())


def test_shards_hold_what_memory_holds(cache: Path) -> None:
    source = Texts(1000)
    found = featurize(source, WordTask(most=12), limit=None, key="key")
    same(found, in_memory(source, WordTask(most=12)))
    assert found.counts.remarks()[0].startswith("20 of 1000 rows dropped: empty text (texts:8, texts:58, ")
    assert len(shards(cache)) > 5
    assert not list(cache.rglob(".*")), "nothing half-written is left"
    with pytest.raises(ValueError, match="read-only"):
        found[0].arrays["input_ids"][0] = 7


def test_a_second_run_reads_what_the_first_made(cache: Path) -> None:
    source, task = Texts(300), WordTask()
    first = featurize(source, task, limit=None, key="key")
    assert task.calls == 300
    same(featurize(source, task, limit=None, key="key"), first)
    assert task.calls == 300
    featurize(source, task, limit=None, key="other")
    assert task.calls == 600


def test_small_data_and_data_without_a_key_are_not_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featurizing, "CACHE_FROM_ROWS", 50)
    featurize(Texts(49), WordTask(), limit=None, key="key")
    featurize(Texts(50), WordTask(), limit=None)
    assert not cache.exists()
    featurize(Texts(3, size=featurizing.CACHE_FROM_BYTES), WordTask(), limit=None, key="key")
    assert shards(cache) == ["000000000000"], "few rows may be long"


def test_rows_that_all_go_leave_an_empty_store(cache: Path) -> None:
    class Picky(WordTask):
        def featurize(self, row: Any) -> Any:
            return super().featurize({"text": ""})

    found = featurize(Texts(60), Picky(), limit=None, key="key")
    assert (len(found), found.counts.dropped_total) == (0, {"empty text": 60})


def test_several_processes_make_what_one_makes(several: Path, tmp_path: Path) -> None:
    source = Texts(3000)
    parallel = featurize(source, WordTask(most=12), limit=None, key="key")
    same(parallel, in_memory(source, WordTask(most=12)))
    made = {path.relative_to(several): path.read_bytes() for path in several.rglob("*.safetensors")}
    shutil.rmtree(several)
    featurizing.cores = lambda: 1  # set back by the fixture
    featurize(source, WordTask(most=12), limit=None, key="key")
    assert made == {path.relative_to(several): path.read_bytes() for path in several.rglob("*.safetensors")}


@pytest.fixture
def none_left() -> Iterator[None]:
    """No process is left that was not there before."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.usefixtures("none_left")
def test_a_fault_of_the_task_is_raised_as_it_is(several: Path) -> None:
    with pytest.raises(KeyError, match="a fault of the task's") as caught:
        featurize(Texts(1000), Failing(600, "raises"), limit=None, key="key")
    assert "in featurize" in caught.value.__notes__[0], "with the place in the other process"


@pytest.mark.usefixtures("none_left")
def test_a_process_that_dies_is_one_line(several: Path) -> None:
    with pytest.raises(RunError, match="a process that makes features was killed by signal 9"):
        featurize(Texts(1000), Failing(600, "dies"), limit=None, key="key")


def test_a_task_that_cannot_be_sent_is_done_here(several: Path, caplog: pytest.LogCaptureFixture) -> None:
    same(featurize(Texts(200), Unportable(), limit=None, key="key"), in_memory(Texts(200), WordTask()))
    assert "features are made by one process" in caplog.text


def test_no_process_is_started_for_little(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("there is nothing left, or too little")

    monkeypatch.setattr(featurizing.Workers, "start", refused)
    featurize(Texts(12), WordTask(), limit=None, key="few")
    monkeypatch.setattr(featurizing, "WORTH_SECONDS", 1e9)
    featurize(Texts(2000), WordTask(), limit=None, key="key")


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_unless_it_is_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with bars.silent():
        featurize(Texts(100), WordTask(), limit=None, key="quiet")
    assert shown.getvalue() == ""
    featurize(Texts(100), WordTask(), limit=None, key="key")
    assert "tokenising" in shown.getvalue()
    before = shown.getvalue()
    featurize(Texts(100), WordTask(), limit=None, key="key")
    assert shown.getvalue() == before, "nothing was made"


@pytest.mark.parametrize("harm", ["cut", "garbled", "gone", "manifest", "folder gone"])
def test_a_damaged_shard_is_made_anew(harm: str, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, task = Texts(1000), WordTask()
    first = featurize(source, task, limit=None, key="key")
    expected, names = in_memory(source, WordTask()), shards(cache)
    victim = cache / "shards" / names[2] / "features.safetensors"
    content = victim.read_bytes()
    if harm == "cut":
        victim.write_bytes(content[:-20])
    elif harm == "garbled":
        victim.write_bytes(content[:-20] + b"?" * 20)
    elif harm == "gone":
        victim.unlink()
    elif harm == "manifest":
        (victim.parent / "shard.json").write_text('{"format": 1, "fir')
    else:
        shutil.rmtree(victim.parent)
    del first
    task.calls = 0
    same(featurize(source, task, limit=None, key="key"), expected)
    assert task.calls == int(names[3]) - int(names[2]), "the rows of that shard alone"
    assert shards(cache) == names
    assert harm == "folder gone" or "damaged, made anew" in caplog.text


@pytest.mark.parametrize("file", ["whole.json", "lengths.npy", "rows.npy"])
def test_a_damaged_summary_is_made_of_the_shards(file: str, cache: Path) -> None:
    source, task = Texts(400), WordTask()
    featurize(source, task, limit=None, key="key")
    path = cache / file
    path.write_bytes(path.read_bytes()[:-7])
    same(featurize(source, task, limit=None, key="key"), in_memory(source, WordTask()))
    assert task.calls == 400


def test_processes_that_want_the_same_features_make_them_once(cache: Path) -> None:
    """Four threads stand for four processes: the lock is a file's, and each opens it for itself."""
    source, tasks = Texts(400), [WordTask() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda task: featurize(source, task, limit=None, key="key"), tasks))
    assert sorted(task.calls for task in tasks) == [0, 0, 0, 400]
    for store in stores[1:]:
        same(store, stores[0])


def test_a_small_cache_that_cannot_be_written_stops_nothing(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.parents[1].mkdir()
    cache.parent.write_text("a file where the folder should be")
    same(featurize(Texts(60), WordTask(), limit=None, key="key"), in_memory(Texts(60), WordTask()))
    assert "features are not cached" in caplog.text
    with pytest.raises(OutputError, match="SLIMPAJAMA_CACHE=FOLDER"):
        featurize(Texts(60, size=1 << 30), WordTask(), limit=None, key="key")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_goes_on_from_its_shards(processes: int, cache: Path) -> None:
    running = subprocess.Popen(
        **command(cache.parents[1], 2000, 1200, processes, 20, SMALL, -1), stderr=subprocess.PIPE
    )
    assert running.stderr is not None
    assert running.stderr.readline() == "waiting\n"
    workers = psutil.Process(running.pid).children()
    assert len(workers) == (processes if processes > 1 else 0)
    running.kill()
    running.wait()
    stopped = [worker for worker in workers if worker.status() != psutil.STATUS_ZOMBIE]
    for worker in stopped:  # the one that waits for a signal is killed; the others end on their own
        worker.terminate()
    assert not psutil.wait_procs(stopped, timeout=60)[1]
    running.stderr.close()
    whole = whole_shards(cache)
    assert len(whole) >= 2
    assert whole[-1].stop < 1200
    task = WordTask()
    same(featurize(Texts(2000), task, limit=None, key="key"), in_memory(Texts(2000), WordTask()))
    assert task.calls == 2000 - whole[-1].stop, "what was whole is not made again"
    assert not list(cache.rglob(".*"))


def test_ctrl_c_ends_all_processes(cache: Path) -> None:
    """It reaches the whole group of a terminal, the processes that ignore it too, one of which waits for ever."""
    running = subprocess.Popen(
        **command(cache.parents[1], 2000, 1200, 2, 20, SMALL, -1), stderr=subprocess.PIPE, start_new_session=True
    )
    assert running.stderr is not None
    assert running.stderr.readline() == "waiting\n"
    workers = psutil.Process(running.pid).children()
    assert len(workers) == 2
    os.killpg(running.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in running.communicate(timeout=60)[1]
    assert not any(worker.is_running() for worker in workers)


def test_a_full_disk_is_one_line_and_what_was_made_is_kept(cache: Path) -> None:
    """RLIMIT_FSIZE refuses what is larger than its share, as a full disk does."""
    arguments = (2000, -1, 1, 20, SMALL)
    first = subprocess.run(**command(cache.parents[1], *arguments, 7000), capture_output=True)
    assert first.returncode == 1
    assert first.stderr.count("\n") == 1
    assert "cannot be written" in first.stderr
    assert "SLIMPAJAMA_CACHE=FOLDER" in first.stderr
    again = subprocess.run(**command(cache.parents[1], *arguments, -1), capture_output=True, check=True)
    assert int(again.stdout.split()[0]) == len(in_memory(Texts(2000), WordTask()))


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """Peak memory of a process that featurises six times as much text is the same but for a few MiB."""
    peaks = []
    for count in (500, 3000):
        ran = subprocess.run(
            **command(tmp_path / str(count), count, -1, 1, 1000, 2_000_000, -1), capture_output=True, check=True
        )
        peaks.append(int(ran.stdout.split()[1]))
    assert peaks[1] - peaks[0] < 12, f"{peaks} MiB; the features of the larger take {3000 * 8 // 1024} MiB more"
