"""Options of this package's components."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Share = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(ge=0, le=1)]
LR = "learning rate at its highest, per step"
LR_NAMES: dict[str, Any] = {"known_as": ["learning_rate", "max_lr", "peak_lr"]}

WARMUP_NAMES: dict[str, Any] = {"known_as": ["warmup_steps", "warmup_ratio", "num_warmup_steps", "lr_warmup_steps"]}


class DecayOptions(_Closed):
    """What every optimizer here has; each gives `lr` a default of its own."""

    lr: float = Field(gt=0, description=LR, json_schema_extra=LR_NAMES)
    weight_decay: float = Field(0.01, ge=0, description="per step, times lr; none on norms, biases and other vectors")
    no_decay: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="further parameters without decay: names that contain one of these; * stands for any characters"
    )


class AdamWOptions(DecayOptions):
    """Optimizer `adamw`."""

    lr: float = Field(5e-5, gt=0, description=LR, json_schema_extra=LR_NAMES)
    betas: tuple[Share, Share] = Field(
        (0.9, 0.999), description="what is kept of the first and second moments, per step"
    )
    eps: float = Field(1e-8, ge=0, description="added to the root of the second moment")


class AdafactorOptions(DecayOptions):
    """Optimizer `adafactor`."""

    lr: float = Field(
        1e-3, gt=0, description=LR + "; relative to a parameter's root mean square", json_schema_extra=LR_NAMES
    )
    beta2_decay: float = Field(-0.8, le=0, description="exponent of the second moment's decay over steps")
    eps: float = Field(1e-3, ge=0, description="least root mean square of a parameter that a step is relative to")
    clip_threshold: float = Field(1.0, ge=1, description="largest root mean square of an update, before lr")


class SgdOptions(DecayOptions):
    """Optimizer `sgd`."""

    lr: float = Field(1e-2, gt=0, description=LR, json_schema_extra=LR_NAMES)
    momentum: Share = Field(0.9, description="share of the last update that is kept, per step")
    nesterov: bool = Field(False, description="look ahead along the momentum; needs momentum")

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("momentum") == 0:
            raise PydanticCustomError("momentum", "false where momentum is 0, or a momentum above 0")
        return value


class LionOptions(DecayOptions):
    """Optimizer `lion`."""

    lr: float = Field(1e-5, gt=0, description=LR + "; a tenth to a third of AdamW's", json_schema_extra=LR_NAMES)
    betas: tuple[Share, Share] = Field(
        (0.9, 0.99), description="share of momentum in the update, what is kept of the momentum; per step"
    )


class MuonOptions(DecayOptions):
    """Optimizer `muon`."""

    lr: float = Field(1e-3, gt=0, description=LR + "; as AdamW's, of both kinds of steps", json_schema_extra=LR_NAMES)
    momentum: Share = Field(0.95, description="what is kept of a matrix's momentum, per step")
    betas: tuple[Share, Share] = Field(
        (0.9, 0.95), description="what AdamW keeps of the first and second moments of the rest, per step"
    )
    eps: float = Field(1e-8, ge=0, description="added to the root of the second moment")


class WarmupOptions(_Closed):
    """What every schedule here has."""

    warmup: int | float = Field(
        0.06, ge=0, description="steps if 1 or more, else a share of the run", json_schema_extra=WARMUP_NAMES
    )

    @field_validator("warmup")
    @classmethod
    def _is_length(cls, value: int | float) -> int | float:
        return length(value)


class LinearOptions(WarmupOptions):
    """Schedule `linear`."""

    minimum: Factor = Field(0.0, description="factor at the end, of lr")


class CosineOptions(WarmupOptions):
    """Schedule `cosine`."""

    minimum: Factor = Field(0.0, description="factor at the end, of lr")


class ConstantOptions(WarmupOptions):
    """Schedule `constant`."""

    warmup: int | float = Field(
        0, ge=0, description="steps if 1 or more, else a share of the run", json_schema_extra=WARMUP_NAMES
    )


class WsdOptions(WarmupOptions):
    """Schedule `wsd`."""

    decay: int | float = Field(
        0.2, gt=0, validate_default=True, description="decay at the end: steps if 1 or more, else a share of the run"
    )
    minimum: Factor = Field(0.0, description="factor at the start of the warm-up and at the end, of lr")

    @field_validator("decay")
    @classmethod
    def _fits(cls, value: int | float, info: ValidationInfo) -> int | float:
        warmup = info.data.get("warmup", 0)
        if warmup < 1 and value < 1 < warmup + value:
            raise PydanticCustomError(
                "share",
                "a share of at most {left}: warmup takes {warmup} of the run",
                {"left": f"{1 - warmup:g}", "warmup": warmup},
            )
        return length(value)


def length(value: int | float) -> int | float:
    """A length as given: whole steps, or a share of the run below 1. Refused: 1.5, which is neither."""
    if value >= 1 and value != int(value):
        raise PydanticCustomError("length", "whole steps, or a share of the run below 1")
    return value
