"""What checks say: findings, what was left out, what ran."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A violation. plugin, component ("task/my-task"), check: where; found, expected: what."""

    plugin: str
    component: str
    check: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{_place(self)}: found {self.found}, expected {self.expected}"


@dataclass(frozen=True)
class Skipped:
    """What could not be checked, and why."""

    plugin: str
    component: str
    check: str
    why: str

    def __str__(self) -> str:
        return f"{_place(self)}: not checked: {self.why}"


def _place(item: Finding | Skipped) -> str:
    return (
        f"plugin {item.plugin!r}, {item.component}, {item.check}" if item.plugin else f"{item.component}, {item.check}"
    )


@dataclass
class Report:
    """ran: (component, check) of everything that was carried out, findings or not."""

    ran: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def add(self, other: Report) -> None:
        """Take in another report."""
        self.ran += other.ran
        self.findings += other.findings
        self.skipped += other.skipped

    def checks(self) -> set[str]:
        """Names of the checks with findings."""
        return {finding.check for finding in self.findings}

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "checks": len(self.ran), "findings": [asdict(f) for f in self.findings], "skipped": [asdict(s) for s in self.skipped],
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [*map(str, self.findings), *map(str, self.skipped)]
        components = len({component for component, _ in self.ran})
        counts = f"{len(self.ran)} checks of {components} parts: {len(self.findings)} findings, {len(self.skipped)} not checked"
        return "\n".join([*lines, counts])
