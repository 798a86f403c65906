"""Options of the fakes' components."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FakeModelOptions(_Closed):
    """Options of model `fake`."""

    source: str = Field("fake:tiny", description="any name, or the folder of a saved fake")
    hidden: int = Field(16, ge=2, description="width of the hidden states")
    layers: int = Field(2, ge=1, description="mixing layers")
    vocabulary_size: int = Field(64, ge=16, description="token ids")
    max_length: int = Field(64, ge=8, description="tokens of a sequence at most")
    causal: bool = Field(False, description="whether a position sees earlier positions only")
    pretrained: bool = Field(False, description="whether it streams weights (seeded ones) or has none yet")


class FakeDatasetOptions(_Closed):
    """Options of dataset `fake`."""

    rows: int = Field(24, ge=1, description="rows of split 'train'; split 'validation' has half as many")
    style: Literal["map", "stream"] = Field(
        "map", description="map: rows by position; stream: rows in order, no length"
    )


class FakeOptimizerOptions(_Closed):
    """Options of optimizer `fake`."""

    lr: float = Field(0.05, gt=0, description="base learning rate, per step")
    weight_decay: float = Field(0.0, ge=0, description="per step, times the learning rate; matrices only")


class FakeAdapterOptions(_Closed):
    """Options of adapter `fake`."""

    rank: int = Field(2, ge=1, description="width of the low-rank product")
