"""Networks for volumes against counts that are derived from other definitions."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from transfuse.errors import SpecError
from transfuse.models import create_model, list_models
from transfuse.models.networks_3d import SMALLEST


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "densenet121"])
def test_a_3d_network_is_the_inflated_2d_one(name: str) -> None:
    import torchvision.models

    flat = getattr(torchvision.models, name)(num_classes=4)
    inflated = sum(
        module.weight.numel() * (module.kernel_size[0] - 1)
        for module in flat.modules()
        if isinstance(module, nn.Conv2d)
    )
    assert parameters(create_model(name, 4, 3, 3, device="meta")) == parameters(flat) + inflated


def test_resnet50_is_laid_out_as_medicalnet_s() -> None:
    from monai.networks.nets import ResNetFeatures

    with torch.device("meta"):
        theirs = ResNetFeatures("resnet50", pretrained=False, spatial_dims=3, in_channels=1)
    ours = create_model("resnet50", 2, 1, 3, device="meta")
    shapes = {key: value.shape for key, value in ours.state_dict().items() if not key.startswith("fc.")}
    assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}
    assert {path: m.stride for path, m in ours.named_modules() if isinstance(m, nn.Conv3d)} == {
        path: m.stride for path, m in theirs.named_modules() if isinstance(m, nn.Conv3d)
    }


def test_resnext101_has_the_parameters_of_hara_s_definition() -> None:
    """1 x 1 x 1 to d, 3 x 3 x 3 in 32 groups, 1 x 1 x 1 to 2d, with d = 128, 256, 512, 1024 and 3, 4, 23, 3 blocks."""
    count, into = 3 * 64 * 7**3 + 2 * 64, 64
    for width, repeats in zip((128, 256, 512, 1024), (3, 4, 23, 3), strict=True):
        count += into * 2 * width + 2 * 2 * width  # the projection and its norm
        for _ in range(repeats):
            count += into * width + 32 * (width // 32) ** 2 * 27 + width * 2 * width + 2 * (width + width + 2 * width)
            into = 2 * width
    for classes in (400, 5):
        assert parameters(create_model("resnext101", classes, 3, 3, device="meta")) == count + 2049 * classes
    assert count + 2049 * 400 == 48_340_816  # "48.34 M" in the comparison of 3D CNNs of Köpüklü et al. 2019


def test_resnext101_has_hara_s_shapes_and_groups() -> None:
    model = create_model("resnext101", 400, 3, 3, device="meta").eval()
    seen: dict[str, tuple[int, ...]] = {}
    for path in ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(path).register_forward_hook(
            lambda module, inputs, output, path=path: seen.update({path: tuple(output.shape[1:])})
        )
    assert model(torch.zeros(1, 3, 16, 112, 112, device="meta")).shape == (1, 400)
    assert seen == {
        "conv1": (64, 16, 56, 56),
        "maxpool": (64, 8, 28, 28),
        "layer1": (256, 8, 28, 28),
        "layer2": (512, 4, 14, 14),
        "layer3": (1024, 2, 7, 7),
        "layer4": (2048, 1, 4, 4),
    }
    grouped = [path for path, m in model.named_modules() if isinstance(m, nn.Conv3d) and m.groups == 32]
    assert len(grouped) == 33
    assert all(path.endswith(".conv2") for path in grouped)


def test_a_resnext_bottleneck_is_torchvision_s_with_one_more_dimension() -> None:
    """On volumes that are constant along an axis, with kernels that are not 0 in its middle only, 3D is 2D."""
    from torchvision.models.resnet import Bottleneck

    from transfuse.models.networks_3d import ResNeXtBottleneck

    flat = Bottleneck(256, 64, groups=32, base_width=4).eval()
    solid = ResNeXtBottleneck(256, 64).eval()
    state = {key: value.clone() for key, value in solid.state_dict().items()}
    for key, value in flat.state_dict().items():
        if value.ndim == 4:
            state[key].zero_()
            state[key][:, :, state[key].shape[2] // 2] = value
    solid.load_state_dict(state)
    image = torch.randn(1, 256, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        volume = solid(image.unsqueeze(2).expand(-1, -1, 3, -1, -1))
        torch.testing.assert_close(volume[:, :, 1], flat(image))


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_gradients_reach_every_parameter(name: str) -> None:
    model = create_model(name, 2, 1, 3)
    model(torch.randn(2, 1, 40, 40, 40, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_names_for_volumes_are_listed() -> None:
    assert list_models("res*", spatial_dims=3) == ["resnet10", "resnet18", "resnet34", "resnet50", "resnext101"]
    assert list_models(spatial_dims=3)[-3:] == ["densenet121", "unet3d", "unet3d_wide"]
    with pytest.raises(SpecError, match=r"spatial_dims=1: expected 2"):
        list_models(spatial_dims=1)


@pytest.mark.parametrize(
    ("name", "spatial_dims", "message"),
    [
        (
            "vit_tiny_patch16_224",
            3,
            r"no 'vit_tiny_patch16_224' for spatial_dims=3, for volumes: Choices: resnet10, .*densenet121",
        ),
        ("resnet51", 3, r"no 'resnet51' for spatial_dims=3, for volumes: did you mean 'resnet50'"),
        ("cbr_tiny", 3, r"no 'cbr_tiny' for spatial_dims=3"),
        ("unet_resnet34", 3, r"no 'unet_resnet34' for spatial_dims=3"),
        (
            "resnext101",
            2,
            r"'resnext101' is a network for volumes, and these are images: .* spatial_dims=3.*--spatial-dims 3",
        ),
        (
            "resnet18",
            4,
            r"spatial_dims=4 of the network 'resnet18': expected 2 .* or 3 for volumes \(resnet10, resnet18, resnet34",
        ),
        ("resnet18", "3", r"spatial_dims='3' of the network 'resnet18': expected 2"),
    ],
)
def test_errors_name_the_networks_that_there_are(name: str, spatial_dims: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        create_model(name, 2, 1, spatial_dims)


@pytest.mark.parametrize("name", list_models("[!u]*", spatial_dims=3))
def test_volumes_below_the_smallest_side_are_refused_and_the_smallest_pass(name: str) -> None:
    """At the smallest side no stride steps over a single voxel; one voxel below, one does, or nothing is left."""
    smallest = SMALLEST[name]
    with pytest.raises(
        SpecError, match=rf"Volumes of {smallest - 1} voxels a side are too small for '{name}'.*takes {smallest}"
    ):
        create_model(name, 2, 1, 3, image_size=smallest - 1)
    model = create_model(name, 2, 1, 3, image_size=smallest, device="meta").eval()
    stepped: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.Conv3d | nn.MaxPool3d | nn.AvgPool3d) and max(_three(module.stride)) > 1:
            module.register_forward_pre_hook(lambda module, args: stepped.append(min(args[0].shape[2:])))
    assert model(torch.zeros(1, 1, smallest, smallest, smallest, device="meta")).shape == (1, 2)
    assert min(stepped) > 1
    stepped.clear()
    smaller = torch.zeros(1, 1, *(smallest - 1,) * 3, device="meta")
    if name == "densenet121":
        with pytest.raises(RuntimeError, match="smaller than kernel size"):
            model(smaller)
    else:
        model(smaller)
        assert min(stepped) == 1


def _three(stride: int | tuple[int, ...]) -> tuple[int, ...]:
    return stride if isinstance(stride, tuple) else (stride,)


def test_padding_is_no_choice_in_3d() -> None:
    with pytest.raises(SpecError, match=r"padding='same': 'resnet18' has no choice of padding"):
        create_model("resnet18", 2, 1, 3, padding="same")


def test_without_monai_the_error_holds_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks.nets.densenet", None)
    with pytest.raises(
        SpecError, match=r"'monai' is needed for 'resnet18' with spatial_dims=3 .*pip install 'transfuse\[3d\]'"
    ):
        create_model("resnet18", 2, 1, 3)
