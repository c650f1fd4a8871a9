"""The networks of the papers, and those that today's users expect: what `transfuse show models` lists."""

from __future__ import annotations

from typing import NamedTuple


class Networks(NamedTuple):
    """Members of a family.

    Fields:
        names: what `create_model` takes.
        levels: the levels at which `blocks_of` cuts them.
        text: what they are, and which paper uses them (T, V, M, P).
        spatial_dims: 3 for volumes.
    """

    names: tuple[str, ...]
    levels: tuple[str, ...]
    text: str
    spatial_dims: int = 2


_THREE = ("stage", "block", "layer")
_ALL = (*_THREE, "wt-st")

PUBLISHED_NETWORKS = (
    Networks(("cbr_large_t", "cbr_large_w", "cbr_small", "cbr_tiny", "cbr_tiny_table1"), _THREE, "the CBR family (T)"),
    Networks(("cbr_demo",), _THREE, "a smaller CBR for demonstrations (in no paper)"),
    Networks(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), _ALL, "ResNet (all papers)"),
    Networks(("resnet50_tfslim_v1",), _ALL, "ResNet-50 with TF-slim's strides; takes the weights of resnet50 (T)"),
    Networks(("resnet50_tfslim_v2",), _THREE, "TF-slim's ResNet-50 v2 (T)"),
    Networks(("resnet18_cifar", "resnet50_cifar"), _ALL, "ImageNet ResNet with a 3 x 3 stem (V)"),
    Networks(("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"), _THREE, "CIFAR ResNet of He et al. 2015"),
    Networks(("inception_v3",), _ALL, "Inception-v3 (T, M)"),
    Networks(("densenet121", "densenet201"), _THREE, "DenseNet (V, P)"),
    Networks(("efficientnet_b0", "mobilenetv2_100"), _THREE, "EfficientNet-B0 (P), MobileNetV2"),
    Networks(("vgg19",), _THREE, "VGG-19 (P)"),
    Networks(
        ("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224"), _ALL, "DeiT-T/S/B, plain (M)"
    ),
    Networks(
        ("deit_tiny_distilled_patch16_224", "deit_small_distilled_patch16_224", "deit_base_distilled_patch16_224"),
        _ALL,
        "DeiT-T/S/B, distilled",
    ),
    Networks(("swin_tiny_patch4_window7_224",), _ALL, "Swin-T (M)"),
    Networks(("convnext_tiny",), _THREE, "ConvNeXt-T"),
    Networks(("vit_small_patch16_224", "vit_base_patch16_224"), _ALL, "ViT-S, ViT-B"),
    Networks(("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"), _ALL, "DINOv2, with register tokens too"),
    Networks(("vit_small_patch16_dinov3",), _ALL, "DINOv3"),
    Networks(("resnet10", "resnet18", "resnet50"), _ALL, "3D ResNet (MONAI)", 3),
    Networks(("densenet121",), _THREE, "3D DenseNet (MONAI)", 3),
    Networks(("resnext101",), _ALL, "ResNeXt3D-101 (P)", 3),
    Networks(("unet_resnet34",), _THREE, "U-Net with a ResNet-34 encoder (P)"),
    Networks(("unet_resnet18", "unet_resnet50"), _THREE, "U-Net with another ResNet encoder"),
    Networks(("unet3d", "unet3d_wide"), _THREE, "3D U-Net (MONAI)", 3),
)
