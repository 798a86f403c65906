"""Data set `megatron-indexed` against megatron-core's own reader and writer; files that are damaged, and parts held out."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from indexed_tools import joined, opened, rows, written

from spcore.errors import DataError, SourceError, UserError
from spcore.testing import check_dataset
from spcore_megatron import indexed_files
from spcore_megatron.indexed import Indexed
from spcore_megatron.indexed_options import IndexedOptions

DOCUMENTS = [[[5, 6, 7]], [[8], [], [9, 10]], [], [[65000, 0]]]
TYPES = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64]


@st.composite
def stored(draw: st.DrawFn) -> tuple[list[list[list[int]]], type]:
    dtype = draw(st.sampled_from(TYPES))
    ids = st.integers(0, int(np.iinfo(dtype).max))
    documents = st.lists(st.lists(st.lists(ids, max_size=6), max_size=3), min_size=1, max_size=8)
    return draw(documents.filter(lambda found: any(map(len, joined(found))))), dtype


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored(), st.randoms(use_true_random=False))
def test_documents_are_those_that_were_written(tmp_path: Path, made: tuple, order) -> None:
    documents, dtype = made
    source = opened(written(tmp_path / "a", documents, dtype))
    expected = joined(documents)
    assert rows(source) == expected
    ids = order.choices(range(len(expected)), k=12)
    assert [row["tokens"] for row in source.read(ids)] == [expected[n] for n in ids]
    assert source.schema.columns["tokens"].largest == max(map(max, filter(None, expected)))
    assert source.report.files[0]["tokens"] == sum(map(len, expected))


def test_it_is_a_data_set_by_the_suite(tmp_path: Path) -> None:
    file = written(tmp_path / "a", DOCUMENTS)
    report = check_dataset(Indexed(IndexedOptions(source=str(file))))
    assert report.findings == [], str(report)


@pytest.mark.parametrize("name", ["a.idx", "a.bin", "a", "megatron:{}/a", ".", "*.idx"])
def test_how_it_is_named(name: str, tmp_path: Path) -> None:
    written(tmp_path / "a", DOCUMENTS)
    source = opened(name.format(tmp_path) if "{}" in name else f"{tmp_path}/{name}")
    assert rows(source) == joined(DOCUMENTS)
    assert source.place(3) == f"{tmp_path}/a: document 3"


def test_several_follow_each_other(tmp_path: Path) -> None:
    files = [written(tmp_path / "a", DOCUMENTS), written(tmp_path / "b", [[[1]], [[2, 3]]], np.int32)]
    source = opened(files)
    assert rows(source) == [*joined(DOCUMENTS), [1], [2, 3]]
    assert [row["tokens"] for row in source.read([5, 0, 4])] == [[2, 3], [5, 6, 7], [1]]
    assert source.place(5) == f"{tmp_path}/b: document 1"
    assert [row["tokens"] for row in source.stream(1, 3, 1)] == [[1]]


def changed(at: int, fields: str, *values: int) -> Callable[[bytes], bytes]:
    packed = struct.pack(fields, *values)
    return lambda data: data[:at] + packed + data[at + len(packed) :]


SAME = bytes
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes], str]] = {
    "another file": (lambda data: b"text,label\n" * 9, SAME, "a.idx: not an index of Megatron's: it does not begin with MMIDIDX"),
    "nothing in it": (lambda data: b"", SAME, "a.idx: not an index of Megatron's"),
    "a head cut short": (lambda data: data[:20], SAME, "a.idx: cut short: 20 bytes. Fetch it again"),
    "cut short": (lambda data: data[:-8], SAME, "a.idx: 126 bytes where its head says 134: damaged"),
    "another version": (changed(9, "<Q", 7), SAME, "version 7 of the format; version 1 is read"),
    "numbers": (changed(17, "<B", 7), SAME, "stores float32; tokens are whole numbers"),
    "no known type": (changed(17, "<B", 77), SAME, "stores type 77, which is none"),
    "far too many": (changed(18, "<Q", 2**63), SAME, "134 bytes where its head says"),
    "pictures": (lambda data: data + b"\0\0\0\0\1", SAME, "of several modalities"),
    "a negative length": (changed(34, "<i", -3), SAME, "its lengths or borders run backwards"),
    "another pointer": (changed(62, "<q", 4), SAME, "its sequences do not lie end to end"),
    "a border that runs backwards": (changed(102, "<q", 5), SAME, "its lengths or borders run backwards"),
    "a last border elsewhere": (changed(126, "<q", 3), SAME, "its last document does not end with its last sequence"),
    "tokens cut short": (SAME, lambda data: data[:-2], "a.bin: 14 bytes where a.idx says 16: cut short, or another data set's"),
    "tokens of another": (SAME, lambda data: data * 2, "a.bin: 32 bytes where a.idx says 16"),
    "no tokens": (SAME, lambda data: b"", "a.bin: empty"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line(damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "a", DOCUMENTS)
    index, tokens, message = DAMAGES[damage]
    file.write_bytes(index(file.read_bytes()))
    (tmp_path / "a.bin").write_bytes(tokens((tmp_path / "a.bin").read_bytes()))
    with pytest.raises(DataError) as caught:
        opened(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "no traceback from a finaliser"


@pytest.mark.parametrize("suffix", [".idx", ".bin"])
def test_whatever_byte_is_damaged(suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is refused, or opened with as many tokens: cut short at every place, and every byte turned."""
    written(tmp_path / "a", DOCUMENTS)
    file = tmp_path / f"a{suffix}"
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at])
        with pytest.raises(DataError):
            opened(tmp_path / "a.idx")
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x81]) + whole[at + 1 :])
        with contextlib.suppress(DataError):
            assert sum(map(len, rows(opened(tmp_path / "a.idx")))) == 8
    assert capfd.readouterr() == ("", "")


def test_what_is_not_there(tmp_path: Path) -> None:
    written(tmp_path / "corpus_text_document", DOCUMENTS)
    near = f"did you mean {str(tmp_path / 'corpus_text_document.idx')!r}?"
    with pytest.raises(SourceError, match=near.replace("?", r"\?")):
        opened(tmp_path / "corpus_text_documents")
    (tmp_path / "corpus_text_document.idx").unlink()
    alone = "there is no .*document.idx; corpus_text_document.bin is there, and the two belong together"
    with pytest.raises(SourceError, match=alone):
        opened(tmp_path / "corpus_text_document.bin")
    with pytest.raises(SourceError, match=r"a folder without \.idx files"):
        opened(tmp_path)
    with pytest.raises(SourceError, match=r"no \.idx file matches"):
        opened(tmp_path / "*.idx")
    with pytest.raises(SourceError, match="empty list"):
        opened([])


def test_negative_ids_are_no_tokens(tmp_path: Path) -> None:
    file = written(tmp_path / "a", [[[1, -5, 3]]], np.int32)
    with pytest.raises(DataError, match=r"a.bin: an id of -5: damaged, or no tokens"):
        opened(file)


def test_parts_held_out_by_content(tmp_path: Path) -> None:
    """Whole documents, copies together, each in one part, whatever else is in the files."""
    rng = np.random.default_rng(0)
    documents = [[rng.integers(0, 50, 5).tolist()] for _ in range(300)]
    file = written(tmp_path / "a", documents + documents)
    parts = [rows(opened(file, split, holdout=0.2)) for split in ("train", "validation")]
    assert sorted(parts[0] + parts[1]) == sorted(joined(documents) * 2)
    assert not {tuple(d) for d in parts[0]} & {tuple(d) for d in parts[1]}
    assert 0.1 < len(parts[1]) / 600 < 0.3
    more = written(tmp_path / "b", [[[1, 2]], *documents])
    assert {tuple(d) for d in rows(opened(more, "validation", holdout=0.2))} >= {tuple(d) for d in parts[1]}


def test_parts_held_out_from_the_end(tmp_path: Path) -> None:
    documents = [[[n] * 10] for n in range(20)]
    file = written(tmp_path / "a", documents)
    train, held = (rows(opened(file, split, holdout=0.1, holdout_by="tail")) for split in ("train", "validation"))
    assert held == joined(documents)[18:]
    assert train == joined(documents)[:18]
    prints = {
        opened(file, **options).fingerprint
        for options in ({}, {"holdout": 0.1}, {"holdout": 0.1, "holdout_by": "tail"})
    }
    assert len(prints) == 3
    with pytest.raises(SourceError, match=r"unknown split 'validation'; known: train. data.holdout=0.01 makes"):
        opened(file, "validation")
    with pytest.raises(DataError, match=r"split 'validation' is empty: of 20 documents a share of 1e-05 is none"):
        opened(file, "validation", holdout=1e-5)


def test_what_large_files_hold_is_found_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest, the largest id and the hashes lie in the cache; damaged there, they are found anew; of changed files too."""
    file = written(tmp_path / "a", DOCUMENTS)
    small = opened(file, holdout=0.5)
    monkeypatch.setattr(indexed_files, "LARGE", 0)
    passes = []
    through = indexed_files.IndexedFile._read_through
    monkeypatch.setattr(indexed_files.IndexedFile, "_read_through", lambda self: passes.append(self) or through(self))
    assert [opened(file, holdout=0.5).fingerprint for _ in range(3)] == [small.fingerprint] * 3
    assert len(passes) == 1
    next(cache.rglob("hashes.npy")).write_bytes(b"")
    assert opened(file, holdout=0.5).fingerprint == small.fingerprint
    assert len(passes) == 2
    written(tmp_path / "a", [*DOCUMENTS, [[1]]])
    assert opened(file, holdout=0.5).fingerprint != small.fingerprint
    assert len(passes) == 3


def test_files_that_change_under_a_run(tmp_path: Path) -> None:
    source = opened(written(tmp_path / "a", DOCUMENTS))
    written(tmp_path / "b", DOCUMENTS)
    (tmp_path / "b.bin").replace(tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"its files were changed after they were opened\. Start again"):
        source.read([0])
