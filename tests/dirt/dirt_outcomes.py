"""What the reader and a task make of a case, and the lines of the page's table."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from dirt_cases import Case, Rows

from spcore.errors import SlimPajamaError
from spcore.features import featurize
from spcore.interfaces.task import Limits
from spcore.rows import RoleSource, open_rows
from spcore_data.files import Files
from spcore_data.options import FilesOptions
from spcore_tasks.options import TextClassificationOptions
from spcore_tasks.text_classification import TextClassification
from spcore.testing.fakes import FakeProcessor

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
_LINE = re.compile(r"^\| (?P<name>[^|]+) \| (?P<verdict>read|dropped|refused) \|(?P<said>[^|]*)\|$", re.M)


@dataclass
class Outcome:
    """rows: those a run would use, None where it is refused. said: all that is told about it, one thing a line. dropped: how
    many rows."""

    rows: Rows | None = None
    said: list[str] = field(default_factory=list)
    dropped: int = 0

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
        rows = open_rows(dataset, task.roles, columns={}, split=None, limit=None, seed=0)
        bound = task.bind(FakeProcessor(), None, rows.schema, Limits())
    except SlimPajamaError as error:
        return Outcome(said=[str(error)])
    store = featurize(rows, bound, limit=None)
    return _told(rows, store.rows.tolist(), store.counts.dropped, str(folder))


def _told(rows: RoleSource, used: list[int], dropped: dict[str, list[int]], folder: str) -> Outcome:
    found = [(row["text"], row["label"]) for row in rows.read(used)]
    by_reader, said = rows.report.dropped, list(rows.report.remarks)
    said += [f"{reason}: {', '.join(map(str, lines))}" for reason, lines in by_reader.items()]
    said += [f"{reason}: {', '.join(rows.place(at) for at in places)}" for reason, places in dropped.items()]
    total = sum(map(len, by_reader.values())) + sum(map(len, dropped.values()))
    assert rows.report.read == len(found) + total, "a row is neither used nor counted as dropped"
    return Outcome(found, [line.replace(folder + "/", "") for line in said], total)
