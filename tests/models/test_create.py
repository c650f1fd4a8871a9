from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from transfuse.errors import SpecError
from transfuse.models import create_model, list_models


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet5O"}, r"Unknown network 'resnet5O': did you mean 'resnet5[06]'\? Choices: .*resnet50, "),
        ({"name": "DeiT-S"}, r"'DeiT-S': did you mean 'deit_small_patch16_224'\?.*`transfuse show models` lists"),
        (
            {"name": "deit_small"},
            r"did you mean 'deit_small_patch16_224'\? Choices: deit_small_patch16_224, deit_small",
        ),
        ({"name": "ResNet50"}, r"did you mean 'resnet50'\?"),
        ({"name": "resnet1OO"}, r"Unknown network 'resnet1OO': did you mean 'resnet1.*'package.module:function'"),
        ({"name": "unet_resnet43"}, r"did you mean 'unet_resnet34'"),
        ({"name": "resnet50_tfslim"}, r"did you mean 'resnet50_tfslim_v[12]'.*resnet50_tfslim_v1, "),
        ({"name": "cbr_smal"}, r"did you mean 'cbr_small'"),
        ({"name": "resnet50.a1_in1k"}, r"names weights, not a network: create 'resnet50' and give 'resnet50.a1_in1k'"),
        ({"name": "resnet18", "padding": "same"}, r"'resnet18' has no choice of padding"),
        ({"name": "resnet20", "padding": "same"}, r"'resnet20' has no choice of padding"),
        ({"name": "cbr_small", "image_size": 0}, r"image_size=0 .*at least 1"),
        ({"name": "mobilenetv2_100", "padding": "valid"}, r"Unknown padding 'valid' of 'mobilenetv2_100'.*same"),
        ({"name": "cbr_small", "classes": 0}, r"classes=0 .*at least 1"),
        ({"name": "cbr_small", "channels": 1.5}, r"channels=1.5 .*whole number"),
        ({"name": "cbr_small", "device": "cuda"}, r"Unknown device 'cuda'"),
    ],
)
def test_errors_name_the_value_and_the_nearest_choice(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        create_model(**{"classes": 2, **arguments})  # type: ignore[arg-type]


def test_list_models_knows_ours_and_timm_s() -> None:
    assert list_models("resnet1*_cifar") == ["resnet18_cifar", "resnet101_cifar", "resnet152_cifar"]
    everything = list_models()
    assert {"cbr_tiny", "resnet50", "mobilenetv2_100", "efficientnet_b0"} <= set(everything)
    assert {"resnet50_tfslim_v1", "resnet50_tfslim_v2", "resnet56", "unet_resnet34"} <= set(everything)
    assert len(everything) == len(set(everything))


def test_the_first_four_arguments_may_go_without_their_names() -> None:
    model = create_model("cbr_demo", 4, 1, 2, device="meta").eval()
    assert model(torch.zeros(2, 1, 64, 64, device="meta")).shape == (2, 4)


@pytest.mark.parametrize(
    "name", ["cbr_demo", "test_resnet", "mobilenetv2_050", "resnet20", "resnet50_tfslim_v1", "resnet50_tfslim_v2"]
)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_channels_and_classes(name: str, channels: int) -> None:
    model = create_model(name, classes=4, channels=channels, device="meta").eval()
    assert model(torch.zeros(2, channels, 64, 64, device="meta")).shape == (2, 4)


def test_cifar_resnet_keeps_the_size_in_its_stem() -> None:
    model = create_model("resnet50_cifar", classes=10, device="meta").eval()
    sizes: list[tuple[int, ...]] = []
    for name in ("maxpool", "layer1", "layer4"):
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output: sizes.append(tuple(output.shape))
        )
    model(torch.zeros(1, 3, 32, 32, device="meta"))
    assert sizes == [(1, 64, 32, 32), (1, 256, 32, 32), (1, 2048, 4, 4)]
    assert model.conv1.kernel_size == (3, 3)


def test_same_padding_of_mobilenet_is_tensorflow_s() -> None:
    model = create_model("mobilenetv2_100", classes=2, padding="same", device="meta")
    symmetric = create_model("mobilenetv2_100", classes=2, padding="symmetric", device="meta")
    assert type(model.conv_stem).__name__ == "Conv2dSame"
    assert type(symmetric.conv_stem) is nn.Conv2d
    assert list(model.state_dict()) == list(symmetric.state_dict())


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "tf_mobilenetv3_small_100", "mobilenetv4_conv_small"])
def test_padding_of_later_mobilenets(name: str) -> None:
    for padding, kind in (("same", "Conv2dSame"), ("symmetric", "Conv2d")):
        assert type(create_model(name, 2, padding=padding, device="meta").conv_stem).__name__ == kind


def test_arguments_of_other_types() -> None:
    with pytest.raises(SpecError, match=r"classes=True of the network 'cbr_tiny': expected a whole number"):
        create_model("cbr_tiny", True)
    with pytest.raises(SpecError, match=r"The name of a network is a NoneType, None; expected one of list_models"):
        create_model(None, 2)  # type: ignore[arg-type]


def test_a_transformer_is_built_for_the_size_of_the_images() -> None:
    model = create_model("vit_tiny_patch16_224", classes=2, image_size=64, device="meta").eval()
    assert model(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, 2)


def test_timm_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, transfuse.models as m; m.blocks_of(m.create_model('cbr_demo', classes=2));"
        "sys.exit(bool({'timm', 'torchvision', 'monai', 'segmentation_models_pytorch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_torchvision_imports_after_its_operators_are_declared() -> None:
    code = (
        "from transfuse.models.torchvision_operators import declare_operators as d; first = d(); import torchvision;"
        "assert d() == first; from torchvision.models import resnet18; resnet18()"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0
