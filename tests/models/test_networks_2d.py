"""TF-slim's ResNet-50 and the CIFAR-10 ResNets against published counts and against references written by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from transfuse.models import create_model

STEPS = {
    "resnet50_tfslim_v1": ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    "resnet50_tfslim_v2": ("conv1", "pool1", "block1", "block2", "block3", "block4"),
}


def shapes(model: nn.Module, paths: tuple[str, ...], images: Tensor) -> dict[str, tuple[int, ...]]:
    seen: dict[str, tuple[int, ...]] = {}
    for path in paths:
        model.get_submodule(path).register_forward_hook(
            lambda module, inputs, output, path=path: seen.update({path: tuple(output.shape[1:])})
        )
    model(images)
    return seen


def randomise_(model: nn.Module) -> nn.Module:
    """Other values than 0 and 1 in every batch norm."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator) if name.endswith(("weight", "var")) else tensor.normal_(
                    0, 0.3, generator=generator
                )
    return model.eval()


@pytest.mark.parametrize("name", STEPS)
def test_tfslim_has_the_published_shapes_at_587_pixels(name: str) -> None:
    model = create_model(name, 5, device="meta").eval()
    seen = shapes(model, STEPS[name], torch.zeros(1, 3, 587, 587, device="meta"))
    assert list(seen.values()) == [
        *((64, 294, 294), (64, 147, 147)),  # conv1, published by T; pooling
        *((256, 74, 74), (512, 37, 37), (1024, 19, 19), (2048, 19, 19)),  # the end of block 3, published by T
    ]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("side", [11, 12])
def test_the_first_pooling_pads_as_tensorflow_does(name: str, side: int) -> None:
    pool = create_model(name, 5, device="meta").get_submodule(STEPS[name][1])
    values = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    size = -(-side // 2)
    before = max(0, (size - 1) * 2 + 3 - side) // 2  # TensorFlow: the odd pixel of padding goes to the end
    expected = torch.empty(1, 1, size, size)
    for row in range(size):
        for column in range(size):
            top, left = 2 * row - before, 2 * column - before
            expected[0, 0, row, column] = values[0, 0, max(0, top) : top + 3, max(0, left) : left + 3].max()
    assert torch.equal(pool(values), expected)


def test_tfslim_v1_takes_weights_of_torchvision_and_moves_the_strides() -> None:
    from torchvision.models import resnet50

    model, other = create_model("resnet50_tfslim_v1", 1000), resnet50()
    model.load_state_dict(other.state_dict(), strict=True)
    strides = {
        path: module.stride[0]
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.stride[0] > 1
    }
    assert strides == {"conv1": 2, "layer1.2.conv2": 2, "layer2.3.conv2": 2, "layer3.5.conv2": 2}
    values = torch.randn(1, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    for path in ("layer1.2", "layer2.3", "layer3.5"):
        assert torch.equal(model.get_submodule(path).downsample(values), values[:, :, ::2, ::2])


def test_tfslim_v1_without_its_strides_is_torchvision_s() -> None:
    from torchvision.models import resnet50

    model, other = create_model("resnet50_tfslim_v1", 7).eval(), resnet50(num_classes=7).eval()
    model.load_state_dict(other.state_dict(), strict=True)
    for module in (*model.modules(), *other.modules()):
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            module.stride = 1
    images = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.maxpool = other.maxpool = nn.MaxPool2d(3, 2, 1)
        torch.testing.assert_close(model(images), other(images))


def test_tfslim_v2_has_the_published_number_of_parameters() -> None:
    model = create_model("resnet50_tfslim_v2", 5, device="meta")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    statistics = sum(buffer.numel() for name, buffer in model.named_buffers() if "running" in name)
    assert (parameters, parameters + statistics) == (23_529_605, 23_575_045)
    biased = [path for path, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert biased.count("conv1") == 1
    assert {path.rpartition(".")[2] for path in biased} == {"conv1", "conv3", "shortcut"}
    assert len(biased) == 1 + 16 + 4  # the stem, the last convolution of each unit, a projection a block


def norm_relu(values: Tensor, state: dict[str, Tensor], path: str) -> Tensor:
    return functional.relu(norm(values, state, path))


def norm(values: Tensor, state: dict[str, Tensor], path: str) -> Tensor:
    scale = state[f"{path}.weight"] / (state[f"{path}.running_var"] + 1e-5).sqrt()
    return (values - state[f"{path}.running_mean"][:, None, None]) * scale[:, None, None] + state[f"{path}.bias"][
        :, None, None
    ]


@pytest.mark.parametrize(("unit", "stride", "projects"), [("block1.0", 1, True), ("block1.2", 2, False)])
def test_a_unit_of_tfslim_v2_by_hand(unit: str, stride: int, projects: bool) -> None:
    module = randomise_(create_model("resnet50_tfslim_v2", 5).get_submodule(unit))
    state = module.state_dict()
    values = torch.randn(1, 64 if projects else 256, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        active = norm_relu(values, state, "preact.norm")
        inner = norm_relu(functional.conv2d(active, state["conv1.weight"]), state, "norm1")
        inner = norm_relu(functional.conv2d(inner, state["conv2.weight"], stride=stride, padding=1), state, "norm2")
        expected = functional.conv2d(inner, state["conv3.weight"], state["conv3.bias"])
        if projects:
            expected += functional.conv2d(active, state["shortcut.weight"], state["shortcut.bias"])
        else:
            expected += values[:, :, ::stride, ::stride]
        torch.testing.assert_close(module(values), expected)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
    ],
)
def test_cifar_resnets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    model = create_model(name, 10, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    seen = shapes(model.eval(), ("conv1", "layer1", "layer2", "layer3"), torch.zeros(1, 3, 32, 32, device="meta"))
    assert list(seen.values()) == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == int(name.removeprefix("resnet"))


def cifar_by_hand(images: Tensor, state: dict[str, Tensor], residuals: int) -> Tensor:
    """He et al. (2015), section 4.2 and option A, from their text."""
    values = norm_relu(functional.conv2d(images, state["conv1.weight"], padding=1), state, "bn1")
    for stage in (1, 2, 3):
        for index in range(residuals):
            path, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            inner = functional.conv2d(values, state[f"{path}.conv1.weight"], stride=stride, padding=1)
            inner = functional.conv2d(norm_relu(inner, state, f"{path}.bn1"), state[f"{path}.conv2.weight"], padding=1)
            inner = norm(inner, state, f"{path}.bn2")
            shortcut = torch.zeros_like(inner)
            first = (inner.shape[1] - values.shape[1]) // 2
            shortcut[:, first : first + values.shape[1]] = values[:, :, ::stride, ::stride]
            values = functional.relu(inner + shortcut)
    return values.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def test_a_cifar_resnet_by_hand() -> None:
    model = randomise_(create_model("resnet20", 10))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(images), cifar_by_hand(images, model.state_dict(), 3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("file", "residuals"), [("resnet20-12fca82f.th", 3), ("resnet56-4bfd9763.th", 9)])
def test_published_weights_of_cifar_resnets_load(file: str, residuals: int) -> None:
    if not os.environ.get("TRANSFUSE_DATA"):
        pytest.skip("TRANSFUSE_DATA is not set: the weights of resnet_cifar10 are read from it")
    path = Path(os.environ["TRANSFUSE_DATA"]) / "weights" / "resnet_cifar10" / file
    if not path.exists():
        pytest.skip(f"{path} is not there")
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    state = {key.removeprefix("module.").replace("linear.", "fc."): value for key, value in state.items()}
    model = create_model(file.partition("-")[0], 10).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert all(key.endswith("num_batches_tracked") for key in missing)  # the files are older than this counter
    assert not unexpected
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(images), cifar_by_hand(images, state, residuals), rtol=1e-3, atol=1e-3)
