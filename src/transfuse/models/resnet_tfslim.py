"""TF-slim's ResNet-50, the network that T trained: a stage is made smaller by its last unit, not by its first one.

METHODS MOD-6: T's published shapes (at 587 pixels conv1 is 294 x 294 x 64, the end of block 3 is 19 x 19 x 1024) are
those of `tf.contrib.slim.nets.resnet_v1_50` and `resnet_v2_50`; in torchvision and timm the end of stage 3 is 37 x 37.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from transfuse.models.deferred import DeferredDraws
from transfuse.models.torchvision_operators import declare_operators

UNITS = (3, 4, 6, 3)
WIDTHS = (256, 512, 1024, 2048)
STRIDES = (2, 2, 2, 1)  # of each stage, in its last unit


def tfslim_v1(classes: int, channels: int = 3) -> nn.Module:
    """ResNet-50 with TF-slim's strides; maps (N, channels, H, W) to logits (N, classes).

    timm's `resnet50` with the strides moved: stages 1 to 3 halve the map in their last unit (its 3 x 3 convolution;
    its shortcut takes every second pixel), and the first pooling pads as TensorFlow's "SAME" does. Names and shapes of
    the state dict are timm's, so weights of `resnet50` from timm and torchvision load (they were trained with the other
    strides). Batch norm is torch's (momentum 0.1; slim's moving averages are slower, 0.003).
    """
    declare_operators()
    from timm.layers.pool2d_same import MaxPool2dSame
    from timm.models import create_model as timm_model

    with DeferredDraws():
        model: Any = timm_model("resnet50", pretrained=False, num_classes=classes, in_chans=channels)
    model.maxpool = MaxPool2dSame(3, stride=2)
    for stage, stride in zip((model.layer1, model.layer2, model.layer3, model.layer4), STRIDES, strict=True):
        stage[0].conv2.stride = stage[0].downsample[0].stride = (1, 1)
        if stride > 1:
            stage[-1].conv2.stride = (stride, stride)
            stage[-1].downsample = nn.MaxPool2d(1, stride)
    return model


class TFSlimV2(nn.Module):
    """TF-slim's `resnet_v2_50`; maps (N, channels, H, W) to logits (N, classes).

    Pre-activation units (He et al. 2016) whose last convolution and projection have a bias and no norm, as has the
    first convolution of the network; blocks 1 to 3 halve the map in their last unit; a batch norm and ReLU on top.
    Convolutions start as kaiming_normal (fan_out) with biases 0. Batch norm is torch's, as in `tfslim_v1`.

    Args:
        classes: outputs of the head.
        channels: input channels.
    """

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        declare_operators()
        from timm.layers.pool2d_same import MaxPool2dSame

        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3)
        self.pool1 = MaxPool2dSame(3, stride=2)
        self.block1 = _block(64, 0)
        self.block2 = _block(WIDTHS[0], 1)
        self.block3 = _block(WIDTHS[1], 2)
        self.block4 = _block(WIDTHS[2], 3)
        self.postnorm = nn.BatchNorm2d(WIDTHS[3])
        self.act = nn.ReLU(inplace=True)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(WIDTHS[3], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, H, W)."""
        features = self.block2(self.block1(self.pool1(self.conv1(images))))
        features = self.act(self.postnorm(self.block4(self.block3(features))))
        return self.head(self.flatten(self.global_pool(features)))


class PreactivationUnit(nn.Module):
    """Norm and ReLU before each convolution, 1 x 1, 3 x 3, 1 x 1; (N, C, H, W) to (N, `width`, H / s, W / s)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        inner = width // 4
        self.preact = nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(channels), act=nn.ReLU(inplace=True)))
        self.projects = channels != width
        self.shortcut: nn.Module = nn.Identity() if stride == 1 else nn.MaxPool2d(1, stride)
        if self.projects:
            self.shortcut = nn.Conv2d(channels, width, 1, stride=stride)
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(inner, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """The sum of residual and shortcut; a projection sees the features after norm and ReLU, a copy before them."""
        active = self.preact(features)
        shortcut = self.shortcut(active if self.projects else features)
        residual = self.act1(self.norm1(self.conv1(active)))
        return self.conv3(self.act2(self.norm2(self.conv2(residual)))) + shortcut


def _block(channels: int, index: int) -> nn.Sequential:
    units, width, stride = UNITS[index], WIDTHS[index], STRIDES[index]
    strides = [1] * (units - 1) + [stride]
    inputs = [channels] + [width] * (units - 1)
    return nn.Sequential(*(PreactivationUnit(into, width, step) for into, step in zip(inputs, strides, strict=True)))
