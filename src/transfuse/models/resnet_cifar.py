"""The ResNets that He et al. (2015, section 4.2) define for CIFAR-10: narrow and deep, for images of 32 pixels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

RESIDUALS = {f"resnet{6 * residuals + 2}": residuals for residuals in (3, 5, 7, 9, 18)}  # in each of the three stages
WIDTHS = (16, 32, 64)


class CifarResNet(nn.Module):
    """A ResNet of 6n + 2 layers; maps (N, channels, H, W) to logits (N, classes).

    A 3 x 3 convolution of 16 channels, three stages of n residual blocks with 16, 32 and 64 channels (the second and
    third start with stride 2), global average pooling, one linear layer; shortcuts have no parameters ("option A").
    Modules are named as in torchvision (the classifier `fc`). Convolutions start as kaiming_normal (fan_out).

    Args:
        residuals: residual blocks a stage (n).
        classes: outputs of the head.
        channels: input channels.

    >>> sum(parameter.numel() for parameter in CifarResNet(RESIDUALS["resnet20"], 10).parameters())
    269722
    """

    def __init__(self, residuals: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], residuals, stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], residuals, stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], residuals, stride=2)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(WIDTHS[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, H, W)."""
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.fc(self.flatten(self.global_pool(features)))


class ShortcutA(nn.Module):
    """Every `stride`-th pixel, and channels of zeros around the given ones: a shortcut without parameters."""

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = added, stride

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + added, ceil(H / stride), ceil(W / stride))."""
        before = self.added // 2
        sampled = features[:, :, :: self.stride, :: self.stride]
        return functional.pad(sampled, (0, 0, 0, 0, before, self.added - before))


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and a shortcut; (N, C, H, W) to (N, `width`, H / stride, W / stride)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity() if channels == width else ShortcutA(width - channels, stride)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """The block's output after the addition and its ReLU."""
        residual = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(features)))))
        return self.act2(residual + self.shortcut(features))


def _stage(channels: int, width: int, residuals: int, stride: int) -> nn.Sequential:
    first = Residual(channels, width, stride)
    return nn.Sequential(first, *(Residual(width, width, 1) for _ in range(residuals - 1)))
