"""The policies' values, their names and other names."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from spcore.components import Registry
from spcore.interfaces.precision import LossScaling, PrecisionPolicy
from spcore.testing.suites.precision import check_precision
from spcore_precision import plugin, policies

DECLARED = {value.name: value for value in vars(policies).values() if isinstance(value, PrecisionPolicy)}


@pytest.fixture
def registry() -> Registry:
    made = Registry(entry_points=False)
    made.register(plugin, name="precision")
    return made


def test_every_value_is_offered_under_its_name(registry: Registry) -> None:
    """A value in policies.py without a line in plugin.py, or the other way round, is a slip."""
    assert sorted(DECLARED) == registry.names("precision")
    for name, policy in DECLARED.items():
        assert registry.create("precision", name) is policy


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_conforms(name: str) -> None:
    report = check_precision(DECLARED[name], name=name)
    assert report.findings == [], str(report)


@pytest.mark.parametrize(
    ("name", "compute", "matmul", "scaling"),
    [
        ("fp32", "float32", "ieee", None),
        ("tf32", "float32", "tf32", None),
        ("bf16", "bfloat16", "ieee", None),
        ("fp16", "float16", "ieee", LossScaling(65536.0, 2.0, 0.5, 2000)),
    ],
)
def test_values(name: str, compute: str, matmul: str, scaling: LossScaling | None) -> None:
    policy = DECLARED[name]
    assert (policy.compute, policy.matmul, policy.loss_scaling) == (compute, matmul, scaling)
    assert (policy.parameter, policy.reduction, policy.state) == ("float32",) * 3, "what is summed stays float32"
    assert policy.fp8 is None


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("float32", "fp32"), ("32", "fp32"), ("bfloat16", "bf16"), ("bf16-mixed", "bf16"), ("float16", "fp16"),
        ("fp16-mixed", "fp16"),
    ],
)  # fmt: skip
def test_other_names(registry: Registry, alias: str, name: str) -> None:
    assert registry.create("precision", alias) is DECLARED[name]


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        policies.BF16.compute = "float16"  # type: ignore[misc]


def test_policies_need_no_torch() -> None:
    code = "from spcore_precision import plugin, policies; assert not {'torch', 'numpy', 'pydantic'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"], check=True)
