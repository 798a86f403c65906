"""A harness that needs no library and no data."""

from __future__ import annotations

from collections.abc import Sequence

from spcore.errors import UserError, unknown
from spcore.interfaces.harness import Harness, HarnessReport, Subject, TaskFigures

_ROWS = (("w10 w11", " w12"), ("w20", " w21 w22"))


class FakeHarness(Harness):
    """Tasks "likely" (continuations) and "written" (answers), of two rows each."""

    def evaluate(self, subject: Subject, tasks: Sequence[str]) -> HarnessReport:
        """See `Harness.evaluate`."""
        for name in tasks:
            if name not in ("likely", "written"):
                raise UserError(unknown("task", name, ("likely", "written")))
        figures, samples = {}, {}
        for name in tasks:
            if name == "likely":
                scores = subject.score(_ROWS)
                rows = [
                    {"asked": list(row), "logprob": score.logprob} for row, score in zip(_ROWS, scores, strict=True)
                ]
                metrics = {"logprob": sum(score.logprob for score in scores) / len(_ROWS)}
            else:
                answers = subject.generate([prompt for prompt, _ in _ROWS], max_new_tokens=4, temperature=0)
                rows = [{"asked": row[0], "text": answer["text"]} for row, answer in zip(_ROWS, answers, strict=True)]
                metrics = {"characters": sum(len(answer["text"]) for answer in answers) / len(_ROWS)}
            figures[name] = TaskFigures(metrics, {}, len(rows), len(rows), 0, "1")
            samples[name] = rows
        return HarnessReport("fake 1", figures, samples)
