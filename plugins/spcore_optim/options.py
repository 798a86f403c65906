"""Options of this package's components."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DecayOptions(_Closed):
    """What every optimizer here has."""

    weight_decay: float = Field(0.01, ge=0, description="per step, times lr; none on norms, biases and other vectors")
    no_decay: tuple[str, ...] = Field((), description="further parameters without decay: names that contain one of these")


class AdamWOptions(DecayOptions):
    """Optimizer `adamw`."""

    lr: float = Field(5e-5, gt=0, description="learning rate, per step, at its highest")
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the first and second moments, per step")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")


class AdafactorOptions(DecayOptions):
    """Optimizer `adafactor`."""

    lr: float = Field(1e-3, gt=0, description="learning rate, per step, at its highest")
    beta2_decay: float = Field(-0.8, lt=0, description="exponent of the second moment's decay over steps")
    clip_threshold: float = Field(1.0, gt=0, description="largest root mean square of an update")


class SgdOptions(DecayOptions):
    """Optimizer `sgd`."""

    lr: float = Field(1e-2, gt=0, description="learning rate, per step, at its highest")
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last update that is kept")
    nesterov: bool = Field(False, description="look ahead along the momentum; needs momentum")


class LionOptions(DecayOptions):
    """Optimizer `lion`."""

    lr: float = Field(1e-5, gt=0, description="learning rate, per step, at its highest; a third to a tenth of AdamW's")
    betas: tuple[float, float] = Field((0.9, 0.99), description="interpolation of the update, decay of the momentum")


class _WarmupOptions(_Closed):
    warmup: float = Field(0.06, ge=0, description="steps if 1 or more, else a share of the run")


class LinearOptions(_WarmupOptions):
    """Schedule `linear`."""

    minimum: float = Field(0.0, ge=0, le=1, description="factor at the end")


class CosineOptions(_WarmupOptions):
    """Schedule `cosine`."""

    minimum: float = Field(0.0, ge=0, le=1, description="factor at the end")


class ConstantOptions(_WarmupOptions):
    """Schedule `constant`."""

    warmup: float = Field(0.0, ge=0, description="steps if 1 or more, else a share of the run")


class WsdOptions(_WarmupOptions):
    """Schedule `wsd`."""

    decay: float = Field(0.2, gt=0, description="length of the decay at the end: steps if 1 or more, else a share of the run")
    minimum: float = Field(0.0, ge=0, le=1, description="factor at the end")
