"""Kind `adapter`: it is tried on the fake language model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spcore.errors import UserError
from spcore.interfaces.adapter import Adapter, LowRankSpec
from spcore.interfaces.model import Head, LanguageModel
from spcore.testing.checks import CannotCheck, Check, Where, Wrong, check, run_checks, shown
from spcore.testing.contracts import against
from spcore.testing.report import Report

if TYPE_CHECKING:
    import torch

_HEAD = Head("sequence", 2, {"logits": ("sequence", "label")}, ("no", "yes"))


class AdapterCase:
    """An adapter under test. model: that it is put into, a pretrained fake where none is given."""

    module: torch.nn.Module

    def __init__(self, adapter: Any, model: LanguageModel | None) -> None:
        self.adapter, self._model = adapter, model

    @property
    def model(self) -> LanguageModel:
        """A model with weights."""
        if self._model is None:
            from spcore.testing.fakes.language import FakeLanguageModel

            self._model = FakeLanguageModel(pretrained=True)
        return self._model

    def trainable(self) -> dict[str, torch.Tensor]:
        """The adapter's own parameters."""
        base = self.model.anatomy(_HEAD).base
        return {
            n: p.detach() for n, p in self.module.named_parameters() if p.requires_grad and n.startswith(f"{base}.")
        }


@check("adapter.contract", "it has the members of Adapter, and its spec is a LowRankSpec or None", gate=True)
def adapter_contract(case: AdapterCase) -> Iterator[Wrong]:
    """Subclass or not."""
    yield from against(case.adapter, Adapter, "adapter")
    spec = case.adapter.spec()
    if spec is None:
        return
    if not isinstance(spec, LowRankSpec) or not spec.targets or spec.rank < 1 or not 0 <= spec.dropout < 1:
        yield Wrong(
            f"spec {shown(spec)}", "a LowRankSpec with targets, a rank of 1 or more, a dropout below 1; or None"
        )


@check(
    "adapter.injects",
    "it puts trainable parameters in, freezes the backbone, and changes no output before training",
    gate=True,
)
def adapter_injects(case: AdapterCase) -> Iterator[Wrong]:
    """Into a module with weights."""
    import torch

    from spcore.tensors.materialise import materialise

    anatomy = case.model.anatomy(_HEAD)
    module = case.model.build(_HEAD)
    materialise(module, case.model, _HEAD, seed=0)
    before = {name for name, _ in module.named_parameters()}
    ids = torch.tensor([[1, 9, 10, 2]])
    plain = module(input_ids=ids, attention_mask=torch.ones_like(ids))["logits"].detach()
    try:
        case.adapter.inject(module, anatomy)
    except UserError as error:
        raise CannotCheck(f"it does not go into the fake model: {error}") from error
    case.module = module
    new = case.trainable()
    if not new:
        yield Wrong("no trainable parameter in the backbone", "the adapter's own")
        return
    unfrozen = sorted(set(new) & before)
    if unfrozen:
        yield Wrong(f"{shown(unfrozen)} can be trained", "the backbone's own parameters frozen")
    same = module.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))["logits"].detach()
    if not torch.allclose(plain, same, atol=1e-5):
        yield Wrong(
            f"outputs that change by {float((plain - same).abs().max()):.3g}", "those of the model without the adapter"
        )


@check("adapter.saves", "what is saved is loaded again, and merges into weights of the model's names and shapes")
def adapter_saves(case: AdapterCase) -> Iterator[Wrong]:
    """With parameters that are not 0."""
    import torch

    if not hasattr(case, "module"):
        raise CannotCheck("it was not put into a model")
    trained = {name: torch.full_like(p, 0.1) for name, p in case.trainable().items()}
    with tempfile.TemporaryDirectory() as folder:
        case.adapter.save(iter(trained.items()), Path(folder))
        loaded = dict(case.adapter.load(Path(folder)))
        if set(loaded) != set(trained) or any(not loaded[n].equal(t) for n, t in trained.items()):
            yield Wrong(f"loaded {shown(sorted(loaded))}", f"what was saved: {shown(sorted(trained))}")
        merged = {n: t.clone() for n, t in case.adapter.merge(case.model, Path(folder))}
    own = dict(case.model.weights())
    if {n: t.shape for n, t in merged.items()} != {n: t.shape for n, t in own.items()}:
        yield Wrong(f"merged weights {shown(sorted(merged))}", "the names and shapes of the model's weights")
    elif all(merged[n].equal(t) for n, t in own.items()):
        yield Wrong("merged weights equal to the model's", "the adapter added in")


CHECKS: tuple[Check, ...] = (adapter_contract, adapter_injects, adapter_saves)


def check_adapter(adapter: Any, *, model: LanguageModel | None = None, where: Where = Where()) -> Report:  # noqa: B008 -- frozen
    """Check an adapter. model: with weights, where the fake one will not do."""
    return run_checks(CHECKS, AdapterCase(adapter, model), where)
