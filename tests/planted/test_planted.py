"""Faults planted into a copy of the source: the project's own tests must find each. Where a line that a fault replaces is gone, the fault is
to be planted anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAULTS = {
    "a rank's loss is averaged locally": (
        "spcore/tensors/engine.py",
        "            dist.all_reduce(vector, group=self.data_group)\n        *weights, positions = vector.tolist()",
        "        *weights, positions = vector.tolist()",
        "tests/exact/test_cuts.py",
    ),
    "gradients are averaged over microbatches": (
        "spcore/tensors/engine.py",
        "(term.coefficient / totals[term.name])",
        "(term.coefficient / max(1.0, len(microbatches)) / totals[term.name])",
        "tests/exact/test_cuts.py",
    ),
    "the last bucket of gradients is not summed": (
        "backends/spcore_torch/reducer.py",
        "        while len(self._sent) < len(self._buckets):\n            self._send()",
        "        for bucket in self._buckets[len(self._sent):]:\n"
        "            flat = torch.cat([torch.zeros_like(p).ravel() if p.grad is None else p.grad.ravel() for p in bucket])\n"
        "            self._sent.append((flat, dist.all_reduce(flat.clone(), group=self.group, async_op=True)))",
        "tests/exact/test_cuts.py",
    ),
    "random generators are not saved": (
        "spcore/tensors/state.py",
        '    stored.update({f"random/{name}": value for name, value in random.items()})\n',
        "",
        "tests/exact/test_resume.py",
    ),
    "each process draws augmentation for itself": (
        "spcore/loading.py",
        'generator(self.seed, epoch, "augment", feature.id)',
        'generator(self.seed, epoch, "augment", feature.id, __import__("os").getpid() % 1000)',
        "tests/exact/test_order.py",
    ),
    "each rank orders rows for itself": (
        "spcore/loading.py",
        "ids = order(len(self.store), self.seed, epoch)",
        "ids = order(len(self.store), self.seed + self.place.rank, epoch)",
        "tests/exact/test_cuts.py",
    ),
    "the last batch of an epoch is dropped": (
        "spcore/loading.py",
        "return math.ceil(count / self.global_batch_size)",
        "return max(1, count // self.global_batch_size)",
        "tests/exact/test_order.py",
    ),
    "filler counts in an evaluation": (
        "spcore/evaluating.py",
        'if row["feature_id"] >= 0), key',
        "), key",
        "tests/core/test_evaluation_parts.py",
    ),
    "a checkpoint has its name before its manifest": (
        "spcore/checkpoint.py",
        "        put_text(work / MANIFEST, sealed_text(content))\n        sync_file(work / MANIFEST)\n"
        "        sync_folder(work)\n        replace_folder(work, self.path(step))",
        "        replace_folder(work, self.path(step))\n        work = self.path(step)\n"
        "        put_text(work / MANIFEST, sealed_text(content))\n        sync_file(work / MANIFEST)\n        sync_folder(work)",
        "tests/crash/test_checkpoint_faults.py",
    ),
    "old checkpoints go before the new one is whole": (
        "spcore/checkpoint.py",
        "            self._finish(work, step)\n            self._prune(step)",
        "            self._prune(step)\n            self._finish(work, step)",
        "tests/crash/test_checkpoint_faults.py",
    ),
    "a resumed stream is read from its beginning": (
        "spcore/streaming.py",
        "self.source.stream(shard, SHARDS, done)",
        "self.source.stream(shard, SHARDS, 0)",
        "tests/core/test_positions.py",
    ),
    "a resumed run begins its epoch again": (
        "spcore/trainer.py",
        "steps = self.loader.steps(first, self.total)",
        "steps = self.loader.steps(0, self.total)",
        "tests/exact/test_resume.py",
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("planted")
    for name in ("spcore", "plugins", "backends", "tests", "docs"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def run(copy: Path, tests: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(copy / name) for name in ("", "plugins", "backends"))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", tests]
    return subprocess.run(
        command, cwd=copy, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=280
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, copy: Path) -> None:
    name, line, planted, tests = FAULTS[fault]
    whole = (copy / name).read_text()
    assert line in whole, "plant it anew"
    (copy / name).write_text(whole.replace(line, planted, 1))
    try:
        done = run(copy, tests)
    finally:
        (copy / name).write_text(whole)
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert " failed" in done.stdout or " error" in done.stdout
