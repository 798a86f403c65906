"""What the reader and a task make of a case, and the lines of the page's table."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from dirt_cases import Case, Rows

from spcore.errors import SlimPajamaError
from spcore.features import Counts
from spcore.featurizing import featurize
from spcore.interfaces.task import Limits
from spcore.rows import RoleSource, open_rows
from spcore.testing.fakes import FakeProcessor
from spcore_data.files import Files
from spcore_data.options import FilesOptions
from spcore_tasks.options import TextClassificationOptions
from spcore_tasks.text_classification import TextClassification

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
_LINE = re.compile(r"^\| (?P<name>[^|]+) \| (?P<verdict>read|dropped|refused) \|(?P<said>[^|]*)\|$", re.M)


@dataclass
class Outcome:
    """rows: those a run would use, None where it is refused. remarks: of the reader, or the refusal. by_reader: reason -> lines.
    by_task: reason -> the first places. counts: reason -> rows, of both."""

    rows: Rows | None = None
    remarks: list[str] = field(default_factory=list)
    by_reader: dict[str, list[int]] = field(default_factory=dict)
    by_task: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """How many rows."""
        return sum(self.counts.values())

    @property
    def said(self) -> list[str]:
        """All that is told, one thing a line."""
        reasons = {**self.by_reader, **self.by_task}
        return self.remarks + [f"{reason}: {', '.join(map(str, places))}" for reason, places in reasons.items()]

    @property
    def verdict(self) -> str:
        """As in the table."""
        return "refused" if self.rows is None else "dropped" if self.dropped else "read"


def table() -> dict[str, tuple[str, list[str]]]:
    """The page's lines: name -> what becomes of it, and what is said."""
    section = PAGE.read_text(encoding="utf-8").partition("## Dirty files")[2].partition("\n## ")[0]
    return {m["name"]: (m["verdict"], re.findall(r"`([^`]+)`", m["said"])) for m in _LINE.finditer(section)}


def outcome(case: Case, folder: Path) -> Outcome:
    """Lay a case out, and read it as a run does: the data set, the mapping of columns, the task."""
    task = TextClassification(TextClassificationOptions())
    try:
        source = case.lay(folder)
        dataset = Files(FilesOptions.model_validate({"source": str(source)}))
        rows = open_rows(dataset, task.roles, columns={}, split=None, limit=None)
        bound = task.bind(FakeProcessor(), None, rows.schema, Limits())
    except SlimPajamaError as error:
        return Outcome(remarks=[str(error)])
    store = featurize(rows, bound, limit=None)
    return _told(rows, store.rows.tolist(), store.counts, str(folder))


def _told(rows: RoleSource, used: list[int], counts: Counts, folder: str) -> Outcome:
    found = Outcome(
        [(row["text"], row["label"]) for row in rows.read(used)],
        [line.replace(folder + "/", "") for line in rows.report.remarks],
        {reason: list(lines) for reason, lines in rows.report.dropped.items()},
        {
            reason: [rows.place(at).replace(folder + "/", "") for at in places]
            for reason, places in counts.dropped.items()
        },
        {**{reason: len(lines) for reason, lines in rows.report.dropped.items()}, **counts.dropped_total},
    )
    assert rows.report.read == len(used) + found.dropped, "a row is neither used nor counted as dropped"
    return found
