from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_two_processes_give_what_one_gives() -> None:
    """Real processes over gloo: a vocabulary of 11 words as 7 columns and 6, of which two are padding, in values and gradients;
    and steps that two engines share, however unevenly."""
    script = Path(__file__).with_name("two_ranks.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("alike") == 2  # two processes share the pipe: line ends may meet
