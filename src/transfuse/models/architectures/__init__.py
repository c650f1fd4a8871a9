"""What is known about single families of networks: one small data file each; nothing else knows architectures."""

from __future__ import annotations

from transfuse.models.architectures.cbr import CBR
from transfuse.models.architectures.efficientnet import EFFICIENTNET
from transfuse.models.architectures.family import Family, Rule
from transfuse.models.architectures.resnet import RESNET

FAMILIES: tuple[Family, ...] = (CBR, RESNET, EFFICIENTNET)

__all__ = ["FAMILIES", "Family", "Rule"]
