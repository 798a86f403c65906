"""Evaluations by generating over several processes: the same answers row for row whoever gives them, and nobody waits for ever."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from exact.processes import Processes, measure
from exact.recipes import laid, seq2seq
from spcore.interfaces.runtime import Decodes
from spcore_torch.ddp import DataParallelEngine


class Collective:
    """A decoder whose calls are collective, as over weights that are spread over ranks: all ranks do the same at once, or it fails."""

    def __init__(self, decoder: Decodes) -> None:
        self.decoder, self.capacity = decoder, decoder.capacity
        self.copy, self.free = decoder.copy, decoder.free

    def prefill(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> np.ndarray:
        self._meet("prefill")
        return self.decoder.prefill(rows, slots)

    def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        self._meet("decode")
        return self.decoder.decode(ids, slots)

    def _meet(self, what: str) -> None:
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, what)
        assert set(every) == {what}, f"ranks do {every} at once"


@contextlib.contextmanager
def collective(rank: int) -> Iterator[None]:
    """The engine of `ddp` as one whose ranks decode together."""
    plain = DataParallelEngine.decoding

    @contextlib.contextmanager
    def decoding(self: DataParallelEngine, *sizes: int) -> Iterator[Any]:
        with plain(self, *sizes) as decoder:
            yield Collective(decoder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataParallelEngine, "decodes_together", True)
        patch.setattr(DataParallelEngine, "decoding", decoding)
        yield


def tree(kind: str, folder: Path, rows: int = 23, limit: int | None = None, **generate: Any) -> dict[str, Any]:
    """Evaluated on so many rows, of which two at a time are alike."""
    made = seq2seq(kind, folder, **generate)
    twice = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()[3 : 3 + -(-rows // 2)]]
    file = folder / f"twice-{rows}.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in [*twice, *twice][:rows]))
    made["eval"] = {"data": {**made["eval"]["data"], "source": str(file), "split": None}, "generate": limit}
    return made


def run(made: dict[str, Any], processes: int = 1) -> dict[str, Any]:
    return laid(made, "single" if processes == 1 else "ddp", processes, steps=1)


def answers(found: dict[str, Any]) -> dict[int, tuple[str, str]]:
    return {row["row_id"]: (row["text"], row["finish"]) for row in found["predictions"] if "text" in row}


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_drawn_answers_are_the_same_on_any_number_of_processes(
    kind: str, tmp_path: Path, two: Processes, four: Processes
) -> None:
    made = tree(kind, tmp_path, temperature=1.0, seed=7)
    wanted = answers(measure(run(made)))
    assert list(wanted) == list(range(23))
    assert any(wanted[n] != wanted[12 + n] for n in range(11)), "equal prompts are drawn for anew"
    assert answers(two.measure(run(made, 2))) == wanted
    assert answers(four.measure(run(made, 4))) == wanted


@pytest.mark.parametrize("limit", [1, None])
def test_a_rank_with_fewer_rows_or_none_waits_for_the_others(
    limit: int | None, tmp_path: Path, four: Processes
) -> None:
    """Five rows on four processes, and one."""
    made = tree("t5", tmp_path, rows=5, limit=limit)
    wanted = measure(run(made))
    found = four.measure(run(made, 4))
    assert answers(found) == answers(wanted)
    assert len(answers(found)) == (limit or 5)
    assert len(found["predictions"]) == 5, "the loss is of all rows"


@pytest.mark.parametrize(("limit", "generate"), [(1, {}), (None, {"beams": 3}), (None, {"temperature": 1.0})])
def test_ranks_that_decode_together_do_the_same_at_once(
    limit: int | None, generate: dict[str, Any], tmp_path: Path, two: Processes, four: Processes
) -> None:
    """Each has other rows, of other lengths, and ends when it does."""
    made = tree("llama", tmp_path, rows=9, limit=limit, **generate)
    wanted = answers(measure(run(made)))
    around = "exact.test_prompts_ranks:collective"
    assert answers(two.measure(run(made, 2), around=around)) == wanted
    assert answers(four.measure(run(made, 4), around=around)) == wanted


def test_a_batch_of_few_tokens_gives_the_same_answers(tmp_path: Path) -> None:
    """So that rows wait for slots, and take their places."""
    made = tree("t5", tmp_path, beams=2)
    wanted = measure(run(made))
    made["eval"]["batch_tokens"] = 64
    assert answers(measure(run(made))) == answers(wanted)
