"""U-Nets with a ResNet as encoder, from segmentation-models-pytorch (METHODS MOD-15, MOD-16; P, Fig. 5)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from transfuse.errors import ExtraNotInstalled, SpecError
from transfuse.models.torchvision_operators import declare_operators

UNETS = {f"unet_{encoder}": encoder for encoder in ("resnet18", "resnet34", "resnet50")}


def unet(name: str, *, classes: int, channels: int = 3) -> Callable[[], nn.Module]:
    """What builds a U-Net: it maps images (N, channels, H, W) to one map of logits a class, (N, classes, H, W).

    The encoder is torchvision's ResNet without its head and its modules are named so (`encoder.layer1.0.conv1`); the
    decoder has five blocks of 256, 128, 64, 32 and 16 channels. Nothing is downloaded. Raises SpecError where
    segmentation-models-pytorch is not installed.
    """
    declare_operators()
    try:
        from segmentation_models_pytorch import Unet
    except ModuleNotFoundError as error:
        missing = ExtraNotInstalled(str(error.name).partition(".")[0], needed_for=repr(name), extra="segmentation")
        raise SpecError(str(missing)) from None
    return partial(Unet, UNETS[name], encoder_weights=None, in_channels=channels, classes=classes)
