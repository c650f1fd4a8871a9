"""What is known about single families of networks: one small data file each; nothing else knows architectures."""

from __future__ import annotations

from transfuse.models.architectures.cbr import CBR
from transfuse.models.architectures.convnext import CONVNEXT
from transfuse.models.architectures.densenet import DENSENET, TORCHVISION_DENSENET
from transfuse.models.architectures.efficientnet import EFFICIENTNET
from transfuse.models.architectures.family import Each, Family, Rule
from transfuse.models.architectures.inception import INCEPTION, TORCHVISION_INCEPTION
from transfuse.models.architectures.monai import BASIC_UNET, MONAI_DENSENET
from transfuse.models.architectures.resnet import RESNET, TORCHVISION_RESNET
from transfuse.models.architectures.resnet_cifar import RESNET_CIFAR
from transfuse.models.architectures.resnet_tfslim import TFSLIM_V2
from transfuse.models.architectures.resnetv2 import RESNETV2
from transfuse.models.architectures.swin import SWIN
from transfuse.models.architectures.unet import UNET
from transfuse.models.architectures.vgg import VGGS
from transfuse.models.architectures.vit import DISTILLED_DEIT, VIT

# The first family whose modules are all there is taken, so the special ones stand before the general ones.
FAMILIES: tuple[Family, ...] = (
    CBR,
    TORCHVISION_RESNET,
    RESNET,
    RESNET_CIFAR,
    TFSLIM_V2,
    RESNETV2,
    EFFICIENTNET,
    INCEPTION,
    TORCHVISION_INCEPTION,
    MONAI_DENSENET,
    DENSENET,
    TORCHVISION_DENSENET,
    *VGGS,
    DISTILLED_DEIT,
    VIT,
    SWIN,
    CONVNEXT,
    UNET,
    BASIC_UNET,
)

__all__ = ["FAMILIES", "Each", "Family", "Rule"]
