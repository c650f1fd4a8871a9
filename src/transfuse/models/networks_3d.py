"""Networks for volumes, (N, channels, D, H, W), built of MONAI's parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from transfuse.errors import ExtraNotInstalled, SpecError, nearest
from transfuse.models.torchvision_operators import declare_operators

RESNETS: dict[str, tuple[str, tuple[int, ...]]] = {
    "resnet10": ("basic", (1, 1, 1, 1)),
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnext101": ("resnext", (3, 4, 23, 3)),
}
UNETS_3D: dict[str, tuple[int, ...]] = {
    "unet3d": (16, 16, 32, 64, 128, 16),
    "unet3d_wide": (32, 32, 64, 128, 256, 32),
}
"""Channels of the five levels and of the last one, before the head; the wide ones are MONAI's own."""
NETWORKS_3D = (*RESNETS, "densenet121", *UNETS_3D)
CARDINALITY = 32
TOTAL_STRIDE = dict.fromkeys((*RESNETS, "densenet121"), 32) | dict.fromkeys(UNETS_3D, 16)
SMALLEST = dict.fromkeys(RESNETS, 17) | {"densenet121": 29} | dict.fromkeys(UNETS_3D, 32)
"""The side, in voxels, from which on no stride steps over a single voxel (nor, in DenseNet, leaves none).

In U-Nets it is the side whose smallest map has more than one voxel, without which a norm of single volumes is none.
"""


def network_3d(name: str, *, classes: int, channels: int = 3, image_size: int | None = None) -> Callable[[], nn.Module]:
    """What builds a network for volumes: it maps (N, channels, D, H, W) to logits (N, classes).

    - resnet10, resnet18, resnet34, resnet50: MONAI's ResNet with a first convolution 7 x 7 x 7 of stride 2 and
      projections of convolution and batch norm without bias, which is the layout of MedicalNet's weights for resnet10
      and resnet50 (Chen et al. 2019). MONAI's own default keeps stride 1 there (eight times the memory), and its
      parameter-free shortcut "A" passes no gradient, so neither is used.
    - densenet121: MONAI's.
    - resnext101: ResNeXt3D-101 of Hara et al. (2018), which P cuts at its 34 candidates (METHODS MOD-15): 3 + 4 + 23 +
      3 bottlenecks with 32 groups, the first convolution of stride 2 in the plane only. Names are Hara's.
    - unet3d, unet3d_wide: MONAI's BasicUNet with `UNETS_3D` channels, which maps to one map of logits a class,
      (N, classes, D, H, W). Four levels down by max pooling and up by transposed convolutions, two convolutions each,
      with instance norm. Any sides from 32 on; multiples of 16 waste none.

    Raises SpecError for an unknown name, volumes that are too small, and where MONAI is not installed.
    """
    if name not in NETWORKS_3D:
        raise SpecError(
            f"There is no {name!r} for spatial_dims=3, for volumes: {nearest(name, NETWORKS_3D)}, or a network of your "
            "own as 'package.module:function'."
        )
    if image_size is not None and image_size < SMALLEST[name]:
        raise SpecError(
            f"Volumes of {image_size} voxels a side are too small for {name!r}, whose total stride is "
            f"{TOTAL_STRIDE[name]}: its last stride would {'leave' if name in UNETS_3D else 'find'} a single voxel. It "
            f"takes {SMALLEST[name]} or more (data.size)."
        )
    declare_operators()
    try:
        from monai.networks.nets.basic_unet import BasicUNet
        from monai.networks.nets.densenet import DenseNet121
        from monai.networks.nets.resnet import ResNet
    except ModuleNotFoundError as error:
        missing = ExtraNotInstalled(
            str(error.name).partition(".")[0], needed_for=f"{name!r} with spatial_dims=3", extra="3d"
        )
        raise SpecError(str(missing)) from None
    if name in UNETS_3D:
        features = UNETS_3D[name]
        return partial(BasicUNet, spatial_dims=3, in_channels=channels, out_channels=classes, features=features)
    if name not in RESNETS:
        return partial(DenseNet121, spatial_dims=3, in_channels=channels, out_channels=classes)
    kind, layers = RESNETS[name]
    block: Any = ResNeXtBottleneck if kind == "resnext" else kind
    stride: Any = (1, 2, 2) if kind == "resnext" else 2
    return partial(
        ResNet,
        block,
        list(layers),
        [64, 128, 256, 512],
        spatial_dims=3,
        n_input_channels=channels,
        num_classes=classes,
        conv1_t_stride=stride,
        bias_downsample=False,
    )


class ResNeXtBottleneck(nn.Module):
    """A bottleneck of ResNeXt3D: 1 x 1 x 1, 3 x 3 x 3 in 32 groups, 1 x 1 x 1, twice as wide at its end as inside.

    MONAI's ResNet asks for blocks of this shape: `planes` (64, 128, 256, 512) are a quarter of the output's channels
    (`expansion`) and half of the inner ones; `spatial_dims` is 3 and `norm` "batch".
    """

    expansion = 4

    def __init__(
        self,
        in_planes: int,
        planes: int,
        spatial_dims: int = 3,
        stride: int = 1,
        downsample: nn.Module | None = None,
        norm: Any = "batch",
    ) -> None:
        super().__init__()
        inner, width = 2 * planes, self.expansion * planes
        self.conv1 = nn.Conv3d(in_planes, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inner)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv3d(inner, inner, 3, stride=stride, padding=1, groups=CARDINALITY, bias=False)
        self.bn2 = nn.BatchNorm3d(inner)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv3d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(width)
        self.downsample = downsample
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """The block's output after the addition and its ReLU."""
        residual = self.act1(self.bn1(self.conv1(features)))
        residual = self.bn3(self.conv3(self.act2(self.bn2(self.conv2(residual)))))
        return self.act3(residual + (features if self.downsample is None else self.downsample(features)))
