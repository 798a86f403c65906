"""Which files a source stands for: paths, globs, folders, lists; splits by name; what is said of those that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_tools import all_rows, as_jsonl, opened, write

from spcore.errors import DataError, SourceError, UserError
from spcore_data.splits import split_of


def files(folder: Path, *names: str) -> Path:
    """Files whose one row names them."""
    for name in names:
        write(folder / name, as_jsonl([{"text": name}]))
    return folder


def read(source: object, split: str | None = None) -> list[str]:
    assert isinstance(source, Path | str | list)
    return [row["text"] for row in all_rows(opened(source, split))]


def refused(source: object, split: str | None = None) -> str:
    assert isinstance(source, Path | str | list)
    with pytest.raises(SourceError) as caught:
        opened(source, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "train"), ("train-00000-of-00002.parquet", "train"), ("trainset.csv", "train"), ("Training.tsv", "train"),
        ("dev.tsv", "validation"), ("validation_matched.tsv", "validation"), ("val.en.gz", "validation"), ("test2.csv", "test"),
        ("sentences_train.tsv.gz", "train"), ("my-data.test.jsonl", "test"), ("testimonials.csv", None), ("developers.csv", None),
        ("values.csv", None), ("latest.csv", None), ("strain.csv", None), ("reviews.csv", None),
    ],
)  # fmt: skip
def test_what_a_name_tells(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_a_single_file_is_the_split_train(tmp_path: Path) -> None:
    path = files(tmp_path, "reviews.jsonl") / "reviews.jsonl"
    assert read(path) == read(path, "train") == ["reviews.jsonl"]
    assert "unknown split 'test'; known: train" in refused(path, "test")


def test_a_single_file_may_be_asked_for_by_its_own_split(tmp_path: Path) -> None:
    path = files(tmp_path, "dev.jsonl") / "dev.jsonl"
    assert read(path) == read(path, "validation") == read(path, "dev") == ["dev.jsonl"]


@pytest.mark.parametrize("glob", [False, True])
def test_splits_of_a_folder_and_a_glob(glob: bool, tmp_path: Path) -> None:
    folder = files(tmp_path / "d", "train-1.jsonl", "train-2.jsonl", "dev.jsonl", "test.jsonl")
    source = str(folder / "*.jsonl") if glob else str(folder)
    assert read(source) == read(source, "train") == ["train-1.jsonl", "train-2.jsonl"]
    assert read(source, "validation") == read(source, "dev") == ["dev.jsonl"]
    assert read(source, "test") == ["test.jsonl"]
    assert read(source, "train-2") == ["train-2.jsonl"]
    message = refused(source, "tests")
    assert "unknown split 'tests'; did you mean 'test'? known: test, train, validation" in message
    assert "2 files are read one after another" in opened(source).report.remarks[0]


def test_the_only_split_is_the_one_meant(tmp_path: Path) -> None:
    folder = files(tmp_path / "d", "test-a.jsonl", "test-b.jsonl")
    assert read(folder) == ["test-a.jsonl", "test-b.jsonl"]
    assert "known: test" in refused(folder, "train")


def test_without_train_among_several_one_must_be_named(tmp_path: Path) -> None:
    folder = files(tmp_path / "d", "test.jsonl", "dev.jsonl")
    assert "has no split 'train'; known: validation, test" in refused(folder)


def test_files_named_for_no_split(tmp_path: Path) -> None:
    folder = files(tmp_path / "d", "a.jsonl", "b.jsonl", "README.txt", ".hidden.jsonl", "notes.pdf")
    assert read(folder) == ["a.jsonl", "b.jsonl"]
    files(folder, "train.jsonl", "test.jsonl")
    assert read(folder) == ["train.jsonl"]
    assert "named for no split, none is read: a.jsonl, b.jsonl" in opened(folder).report.remarks[0]


def test_a_list(tmp_path: Path) -> None:
    files(tmp_path, "a.jsonl", "b.jsonl", "test.jsonl")
    assert read([tmp_path / "b.jsonl", tmp_path / "a.jsonl"]) == ["b.jsonl", "a.jsonl"]
    both = [tmp_path / "a.jsonl", tmp_path / "test.jsonl"]
    assert read(both) == ["a.jsonl"]
    assert read(both, "test") == ["test.jsonl"]
    assert "no such file" in refused([tmp_path / "a.jsonl", tmp_path / "none.jsonl"])


def test_splits_in_folders_of_their_own(tmp_path: Path) -> None:
    folder = files(tmp_path / "d", "train/data-0.jsonl", "train/data-1.jsonl", "test/data-0.jsonl")
    write(folder / "dataset_dict.json", '{"splits": ["train", "test"]}')
    assert read(folder) == ["data-0.jsonl", "data-1.jsonl"] or len(read(folder)) == 2
    assert len(read(folder, "test")) == 1


def test_files_of_several_formats_and_columns(tmp_path: Path) -> None:
    write(tmp_path / "d/a.csv", "text,label\none,1\n")
    write(tmp_path / "d/b.jsonl", '{"text": "two", "label": 0}\n')
    assert all_rows(opened(tmp_path / "d")) == [{"text": "one", "label": 1}, {"text": "two", "label": 0}]
    write(tmp_path / "e/a.csv", "text,label\none,1\n")
    write(tmp_path / "e/b.csv", "text,label,more\ntwo,bad,x\n")
    source = opened(tmp_path / "e")
    assert all_rows(source) == [
        {"text": "one", "label": "1", "more": None}, {"text": "two", "label": "bad", "more": "x"},
    ]  # fmt: skip
    assert any("a.csv: has no 'more', which other files have" in remark for remark in source.report.remarks)


def test_dropped_rows_name_their_file(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "text,label\none,1\nx\n")
    write(tmp_path / "b.csv", "text,label\n\ntwo,0\n")
    report = opened(tmp_path).report
    assert report.dropped == {"a.csv: 1 field where 2 are expected": [3], "b.csv: empty line": [2]}
    assert report.read == 4


def test_a_path_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, "reviews.jsonl", "other.jsonl")
    assert f"did you mean {str(tmp_path / 'reviews.jsonl')!r}?" in refused(tmp_path / "review.jsonl")
    assert "has other.jsonl, reviews.jsonl" in refused(tmp_path / "zzz.csv")
    assert "there is no 'nowhere' in" in refused(tmp_path / "nowhere/deep/a.csv")
    assert "no file matches" in refused(tmp_path / "*.parquet")
    assert "`source` is an empty list" in refused([])
    (tmp_path / "empty").mkdir()
    assert "a folder without data files" in refused(tmp_path / "empty")
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'reviews.jsonl'?" in refused("reviws.jsonl")


def test_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(files(tmp_path, "a.jsonl")))
    assert read("~/a.jsonl") == ["a.jsonl"]


@pytest.mark.parametrize("source", ["a.jsonl", "builtin/reviews"])
def test_a_name_for_what_has_no_parts(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files(tmp_path, "a.jsonl"))
    with pytest.raises(UserError, match=r"name 'sst2' is for data sets with several parts"):
        opened(source, name="sst2")


def test_a_damaged_file_of_another_split_does_not_matter(tmp_path: Path) -> None:
    files(tmp_path, "train.jsonl")
    write(tmp_path / "test.jsonl", "{")
    assert read(tmp_path) == ["train.jsonl"]
    with pytest.raises(DataError, match=r"test\.jsonl:1"):
        opened(tmp_path, "test")
