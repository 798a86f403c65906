"""One evaluation made of all ranks' parts."""

from __future__ import annotations

import pytest

from spcore.evaluating import merge_parts
from spcore.interfaces.task import EvalPart


def rows(*ids: int) -> list[dict[str, int]]:
    return [{"feature_id": i, "row_id": i} for i in ids]


def test_sums_add_up_filler_goes_and_rows_are_in_order() -> None:
    parts = [EvalPart({"loss": 1.0, "weight": 2.0}, rows(4, 0, -1)), None, EvalPart({"loss": 0.5}, rows(-1, 2, -1))]
    merged = merge_parts(parts)
    assert merged.sums == {"loss": 1.5, "weight": 2.0}
    assert merged.rows == rows(0, 2, 4)


def test_a_feature_that_is_there_twice_is_an_engine_s_fault() -> None:
    with pytest.raises(AssertionError, match="twice"):
        merge_parts([EvalPart({}, rows(1)), EvalPart({}, rows(1))])
