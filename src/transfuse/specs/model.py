"""What a study says of a network: `ModelSpec`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transfuse.specs.refuse import STRICT


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Which network, and the pretrained weights that its arms may draw on.

    Attributes:
        name: `cbr_small` and its family, or any name of timm.
        weights: where the arms' pretrained weights come from: a timm tag (`resnet18.a1_in1k`), a local file
            (`.safetensors`, `.pth`), or `run:NAME`, a training under `sources`.
        padding: `same`, `valid` or `same_pool` for the CBR family; `same` (TensorFlow's) or `symmetric` for
            EfficientNet and MobileNet; None is the family's own.
        first_layer: how RGB weights meet another number of channels: `sum`, `first` or `repeat`.
        identity_statistics: `refuse` weights whose batch norm is folded or untrained, or `accept` them.
    """

    __pydantic_config__ = STRICT
    name: str
    weights: str | None = None
    padding: Literal["same", "valid", "same_pool", "symmetric"] | None = None
    first_layer: Literal["sum", "first", "repeat"] = "sum"
    identity_statistics: Literal["refuse", "accept"] = "refuse"
