"""The fakes as a plugin. Not installed: a test registers it by hand,
`registry = Registry(entry_points=False); registry.register(spcore.testing.plugin)`."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"
_FAKES = "spcore.testing.fakes"
_OPTIONS = "spcore.testing.options"


@hookimpl
def spcore_components() -> list[Component]:
    """A fake of every kind."""
    tasks = {
        "fake-classification": ("classification:FakeClassification", "A label for a text"),
        "fake-two-terms": (
            "classification:FakeTwoTerms",
            "A label for a text and for each token, with a head of its own",
        ),
        "fake-next-word": ("words:FakeNextWord", "The next token"),
        "fake-masked-words": ("words:FakeMaskedWords", "Tokens that were masked"),
        "fake-prompted": ("words:FakePrompted", "The next token, evaluated by generating"),
        "fake-preference": ("pairs:FakePreference", "The chosen of two answers, against the untrained model"),
        "fake-contrast": ("pairs:FakeContrast", "The text that belongs to a text, among a whole batch"),
    }
    return [
        *(Component("task", name, f"{_FAKES}.{where}", summary) for name, (where, summary) in tasks.items()),
        Component(
            "model", "fake", f"{_FAKES}.language:FakeModel", "A model of a few thousand parameters",
            options=f"{_OPTIONS}:FakeModelOptions", schemes=("fake",), default=True,
        ),
        Component(
            "dataset", "fake", f"{_FAKES}.data:FakeDataset", "Made-up rows for every fake task",
            options=f"{_OPTIONS}:FakeDatasetOptions",
        ),
        Component("precision", "fake", f"{_FAKES}.training:FAKE_PRECISION", "float16 with loss scaling"),
        Component(
            "optimizer", "fake", f"{_FAKES}.training:FakeOptimizer", "Plain gradient descent",
            options=f"{_OPTIONS}:FakeOptimizerOptions",
        ),
        Component("schedule", "fake", f"{_FAKES}.training:FakeSchedule", "From 1 down to nearly 0"),
        Component("strategy", "fake", f"{_FAKES}.engine:FakeStrategy", "One process, and no model runs"),
        Component("runtime", "fake", f"{_FAKES}.running:FakeRuntime", "Runs nothing, answers everything"),
        Component("launcher", "fake", f"{_FAKES}.around:FakeLauncher", "In the caller's process"),
        Component("logger", "fake", f"{_FAKES}.around:FakeLogger", "Keeps what it is told"),
        Component("constraint", "fake", f"{_FAKES}.constraint:FakeConstraint", "One to three tokens of even ids"),
        Component("harness", "fake", f"{_FAKES}.harness:FakeHarness", "Two tasks of two rows", default=True),
        Component(
            "bridge", "tensor-parallel.fake", f"{_FAKES}.language:TENSOR_PLAN", "How tensor parallelism cuts the fake model"
        ),
        Component(
            "adapter", "fake", f"{_FAKES}.adapter:FakeAdapter", "A low-rank product on the mixing layers",
            options=f"{_OPTIONS}:FakeAdapterOptions",
        ),
    ]  # fmt: skip
