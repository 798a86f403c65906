"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"
_OPTIMIZERS = {
    "adamw": ("AdamW", "Adam with decoupled weight decay (Loshchilov and Hutter, 2019)"),
    "adafactor": ("Adafactor", "Factored second moments (Shazeer and Stern, 2018)"),
    "sgd": ("Sgd", "Stochastic gradient descent, with momentum"),
    "muon": ("Muon", "Orthogonalised momentum for hidden matrices (Jordan et al., 2024), AdamW for the rest"),
    "lion": ("Lion", "Sign of an interpolated momentum (Chen et al., 2023)"),
}
_SCHEDULES = {
    "linear": ("Linear", "Warm-up, then straight down"),
    "cosine": ("Cosine", "Warm-up, then half a cosine down"),
    "constant": ("Constant", "Constant, after a warm-up if there is one"),
    "wsd": ("Wsd", "Warm-up, stable, decay"),
}

_DEFAULTS = ("adamw", "linear")


@hookimpl
def spcore_components() -> list[Component]:
    """Optimizers adamw, adafactor, sgd, muon, lion; schedules linear, cosine, constant, wsd."""
    parts = [("optimizer", "optimizers", _OPTIMIZERS), ("schedule", "schedules", _SCHEDULES)]
    return [
        Component(
            kind,
            name,
            f"spcore_optim.{module}:{cls}",
            summary,
            options=f"spcore_optim.options:{cls}Options",
            default=name in _DEFAULTS,
        )
        for kind, module, table in parts
        for name, (cls, summary) in table.items()
    ]
