"""Each suite finds what it is for: faults planted into fakes, one at a time."""

from __future__ import annotations

from collections.abc import Callable

import planted_running
import planted_sources
import planted_tasks
import planted_training
import pytest

from spcore.testing import Report, all_checks

FAULTS = [*planted_tasks.FAULTS, *planted_training.FAULTS, *planted_running.FAULTS, *planted_sources.FAULTS]
ELSEWHERE = {
    "plugin.light", "component.summary", "component.requires", "component.options", "component.target", "component.creates",
}  # fmt: skip
"""Checks whose faults are in test_check_plugin.py."""


@pytest.mark.parametrize(
    ("check", "run"), [(c, r) for c, _, r in FAULTS], ids=[f"{c}: {what}" for c, what, _ in FAULTS]
)
def test_a_planted_fault_is_found_by_the_check_it_is_for(check: str, run: Callable[[], Report]) -> None:
    report = run()
    assert check in report.checks(), f"\n{report}"
    finding = next(f for f in report.findings if f.check == check)
    assert finding.found
    assert finding.expected
    assert "\n" not in str(finding)


def test_every_check_has_a_planted_fault() -> None:
    assert {check for check, _, _ in FAULTS} | ELSEWHERE == set(all_checks())
