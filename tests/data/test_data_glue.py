"""GLUE from a folder, in the layouts its archives have, against rows written into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_tools import all_rows, write
from pydantic import ValidationError

from spcore.errors import DataError, SourceError
from spcore.interfaces.dataset import Source
from spcore.testing.suites.dataset import check_dataset
from spcore_data.glue import Glue
from spcore_data.glue_tasks import TASKS
from spcore_data.options import GlueOptions

MNLI = "index\tpromptID\tpairID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label"
# task: header or None, a row for training, the columns as they should come
LAYOUTS: dict[str, tuple[str | None, str, dict[str, Any]]] = {
    "cola": (None, 'gj04\t1\t\t"We" won\'t buy it.', {"sentence": '"We" won\'t buy it.', "label": 1}),
    "sst2": ("sentence\tlabel", 'a " fine " film \t1', {"sentence": 'a " fine " film ', "label": 1}),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t7\t8\tHe said .\tShe said .",
        {"sentence1": "He said .", "sentence2": "She said .", "label": 0},
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t1\t2\tWhy?\tHow?\t1",
        {"question1": "Why?", "question2": "How?", "label": 1},
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tnews\tf\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t3.800",
        {"sentence1": "A plane.", "sentence2": "An air plane.", "label": 3.8},
    ),
    "mnli": (MNLI, "0\t1\t2\tfiction\tHe left.\tHe is gone.\tneutral\tentailment",
             {"premise": "He left.", "hypothesis": "He is gone.", "label": 0}),
    "qnli": ("index\tquestion\tsentence\tlabel", "0\tWhen?\tIn 1916.\tnot_entailment",
             {"question": "When?", "sentence": "In 1916.", "label": 1}),
    "rte": ("index\tsentence1\tsentence2\tlabel", "0\tNo weapons.\tWeapons.\tnot_entailment",
            {"sentence1": "No weapons.", "sentence2": "Weapons.", "label": 1}),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "0\tHe held it.\tIt was held.\t1",
             {"sentence1": "He held it.", "sentence2": "It was held.", "label": 1}),
}  # fmt: skip
METRICS = {
    "cola": "matthews_correlation", "sst2": "accuracy", "mrpc": "f1", "qqp": "f1", "stsb": "pearson_spearman", "mnli": "accuracy",
    "qnli": "accuracy", "rte": "accuracy", "wnli": "accuracy",
}  # fmt: skip


def glue(name: str, folder: Path) -> Glue:
    return Glue(GlueOptions.model_validate({"name": name, "folder": str(folder)}))


def archive(root: Path, name: str) -> Path:
    """A task's folder as its archive has it."""
    header, row, _ = LAYOUTS[name]
    lines = "\n".join([*([header] if header else []), row]) + "\n"
    folder = root / TASKS[name].folder
    devs = ["dev_matched.tsv", "dev_mismatched.tsv"] if name == "mnli" else ["dev.tsv"]
    for file in ("train.tsv", *devs):
        write(folder / file, lines)
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_task_from_a_folder(name: str, tmp_path: Path) -> None:
    folder = archive(tmp_path, name)
    for root in (tmp_path, folder):
        source = glue(name, root).open(None)
        assert all_rows(source) == [LAYOUTS[name][2]]
    texts = [column for column in source.schema.columns if column != "label"]
    assert source.schema.column_map == {**dict(zip(("text", "text_pair"), texts, strict=False)), "label": "label"}
    assert source.schema.default_task == "text-classification"
    assert source.schema.task_options["metric"] == METRICS[name]
    label = source.schema.columns["label"]
    assert label.labels == (TASKS[name].labels or None)
    assert label.kind == ("integer" if TASKS[name].labels else "number")
    problem = "single_label_classification" if TASKS[name].labels else "regression"
    assert source.schema.task_options["problem_type"] == problem
    report = check_dataset(glue(name, tmp_path))
    assert report.findings == [], str(report)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_a_task_is_told_is_what_the_task_takes(name: str) -> None:
    from spcore_tasks.options import TextClassificationOptions

    TextClassificationOptions.model_validate(TASKS[name].advice()["task_options"])


def test_the_validation_of_mnli_is_the_matched_one(tmp_path: Path) -> None:
    folder = archive(tmp_path, "mnli")
    write(folder / "dev_mismatched.tsv", f"{MNLI}\n0\t1\t2\tg\tOther.\tOne.\tneutral\tcontradiction\n")
    task = glue("mnli", tmp_path)

    def first(split: str) -> str:
        return str(task.open(split).read([0])[0]["premise"])

    assert first("validation") == first("dev") == first("validation_matched") == "He left."
    assert first("validation_mismatched") == "Other."
    with pytest.raises(
        SourceError, match=r"unknown split 'test'; .*known: train, validation_matched, validation_mismatched"
    ):
        task.open("test")


def test_tests_have_no_labels(tmp_path: Path) -> None:
    folder = archive(tmp_path, "rte")
    write(folder / "test.tsv", "index\tsentence1\tsentence2\n0\tA.\tB.\n")
    write(folder / "dev.tsv", "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t-1\n1\tC.\tD.\t1\n")
    test = glue("rte", tmp_path).open("test")
    assert all_rows(test) == [{"sentence1": "A.", "sentence2": "B.", "label": None}]
    assert (test.schema.columns["label"].labels, test.schema.columns["label"].counts) == (TASKS["rte"].labels, {})
    validation = glue("rte", tmp_path).open("validation")
    assert [row["label"] for row in all_rows(validation)] == [None, 1]
    assert validation.schema.columns["label"].counts == {"1": 1}
    write(folder / "train.tsv", "index\tsentence1\tsentence2\n0\tA.\tB.\n")
    with pytest.raises(DataError, match=r"train\.tsv:1: no column 'label'"):
        glue("rte", tmp_path).open("train")


def test_a_cola_test_has_a_header_where_training_has_none(tmp_path: Path) -> None:
    folder = archive(tmp_path, "cola")
    write(folder / "test.tsv", "index\tsentence\n0\tBill slept.\n")
    assert all_rows(glue("cola", tmp_path).open("test")) == [{"sentence": "Bill slept.", "label": None}]


def test_other_layouts_of_the_same_tasks(tmp_path: Path) -> None:
    write(tmp_path / "a/msr_paraphrase_train.txt", "\n".join(LAYOUTS["mrpc"][:2]) + "\n")
    assert glue("mrpc", tmp_path / "a").open(None).length == 1
    write(tmp_path / "b/sts-train.tsv", "main\tMSRvid\t2012\t1\t5.000\tA.\tB.\textra\tfields\n")
    write(tmp_path / "b/stsb_train.tsv", "main\tMSRvid\t2012\t1\t5.000\tA.\tB.\textra\tfields\n")
    assert all_rows(glue("stsb", tmp_path / "b").open(None))[0]["label"] == 5.0
    write(tmp_path / "c/rte_train.tsv", "\n".join(LAYOUTS["rte"][:2]) + "\n")  # type: ignore[arg-type]
    write(tmp_path / "c/cola_in_domain_train.tsv", LAYOUTS["cola"][1] + "\n")
    write(tmp_path / "c/out_of_domain_dev.tsv", LAYOUTS["cola"][1] + "\n")
    assert glue("rte", tmp_path / "c").open(None).length == 1
    assert glue("cola", tmp_path / "c").open("validation").length == 1
    with pytest.raises(SourceError, match="no TSV files of it"):
        glue("qqp", tmp_path / "c").open(None)


def test_lines_that_are_cut_short_are_counted(tmp_path: Path) -> None:
    folder = archive(tmp_path, "qqp")
    header, row, _ = LAYOUTS["qqp"]
    write(folder / "train.tsv", f"{header}\n{row}\n5\t6\n\n{row}\n")
    source: Source = glue("qqp", tmp_path).open("train")
    assert source.length == 2
    assert source.report.dropped == {"2 fields where 6 are expected": [3], "empty line": [4]}
    assert source.report.read == 4


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0\tA.\tB.\tnot_entailmnt", r"train\.tsv:2: unknown label 'not_entailmnt'; did you mean 'not_entailment'\?"),
        ("0\tA.\tB.\t2", r"train\.tsv:2: unknown label '2'"),
    ],
)
def test_labels_that_are_none(row: str, said: str, tmp_path: Path) -> None:
    folder = archive(tmp_path, "rte")
    write(folder / "train.tsv", f"{LAYOUTS['rte'][0]}\n{row}\n")
    with pytest.raises(DataError, match=said):
        glue("rte", tmp_path).open(None)


def test_a_score_that_is_none(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", "sentence1\tsentence2\tscore\nA.\tB.\thigh\n")
    with pytest.raises(DataError, match=r"train\.tsv:2: 'high' is no score"):
        glue("stsb", tmp_path).open(None)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "glue").mkdir()
    with pytest.raises(SourceError, match="no such folder; did you mean"):
        glue("rte", tmp_path / "glu").open(None)


@pytest.mark.parametrize("name", ["SST-2", "sst2", "SST2", "sst_2"])
def test_spellings_of_a_task(name: str) -> None:
    assert GlueOptions.model_validate({"name": name}).name == "sst2"


def test_an_unknown_task() -> None:
    with pytest.raises(ValidationError, match="'cola', 'sst2'"):
        GlueOptions.model_validate({"name": "sst3"})
