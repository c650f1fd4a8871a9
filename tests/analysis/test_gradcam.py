"""Grad-CAM: the formula, any network, and the network afterwards; and how much of it lies inside a mask."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfuse.analysis.gradcam import gradcam, gradcam_block, mass_inside
from transfuse.data.phantoms import PHANTOMS, phantom_masks, phantoms
from transfuse.errors import AnalysisError, DataError, ExtraNotInstalled
from transfuse.models import Block, Blocks, blocks_of, create_model


class Net(nn.Module):
    """conv, in-place ReLU, conv, in-place ReLU, pooled: all that makes hooks on a block's output go wrong."""

    def __init__(self, classes: int = 3, dims: int = 2, width: int = 6) -> None:
        super().__init__()
        conv, norm = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[dims - 2]
        self.conv1, self.norm, self.relu1 = conv(1, width, 3, padding=1), norm(width), nn.ReLU(inplace=True)
        self.conv2, self.relu2 = conv(width, width, 3, padding=1), nn.ReLU(inplace=True)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(width, classes)

    def top(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.relu2(self.conv2(x)).flatten(2).mean(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.relu1(self.norm(self.conv1(x))))


def net(classes: int = 3, dims: int = 2) -> Net:
    torch.manual_seed(classes)
    return Net(classes, dims)


def by_hand(model: Net, images: Tensor, target: list[int]) -> Tensor:
    """Equations 1 and 2 of Selvaraju et al. at norm, one image at a time."""
    twin, maps = copy.deepcopy(model).eval(), []
    for image, number in zip(images, target, strict=True):
        a = twin.norm(twin.conv1(image[None])).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(twin.top(torch.relu(a))[0, number], a)
        maps.append(torch.relu((gradient.flatten(2).mean(2)[0].view(-1, *[1] * (a.ndim - 2)) * a[0]).sum(0)).detach())
    return torch.stack(maps)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_formula_by_hand(dims: int) -> None:
    model, images = net(dims=dims), torch.randn(4, 1, *[6] * dims)
    found = gradcam(model, images, "norm", [0, 1, 2, 1], scaling="raw")
    torch.testing.assert_close(found, by_hand(model, images, [0, 1, 2, 1]))
    assert found.amax() > 0
    peaks = found.flatten(1).amax(1)
    assert (peaks > 0).all()
    scaled = gradcam(model, images, "norm", torch.tensor([0, 1, 2, 1]))
    torch.testing.assert_close(scaled, found / peaks.view(-1, *[1] * dims))
    assert scaled.flatten(1).amax(1).tolist() == [1, 1, 1, 1]


def test_images_of_a_batch_do_not_mix() -> None:
    """MONAI alone sums the scores of all the predicted classes of a batch for each image."""
    model, images = net(), torch.randn(7, 1, 8, 8) * 3
    predicted = model.eval()(images).argmax(1)
    with torch.no_grad():
        model.fc.bias -= model(images).mean(0)
        predicted = model(images).argmax(1)
    assert len(set(predicted.tolist())) > 1
    whole = gradcam(model, images, "norm", scaling="raw")
    torch.testing.assert_close(whole, by_hand(model, images, predicted.tolist()))
    for size in (1, 3):
        torch.testing.assert_close(gradcam(model, images, "norm", scaling="raw", batch_size=size), whole)
    torch.testing.assert_close(gradcam(model, images[2:3], "norm", scaling="raw")[0], whole[2])


def test_one_score_for_two_classes() -> None:
    two, one, images = net(2), net(1), torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            parameter.copy_(two.get_parameter(name)[1:] - two.get_parameter(name)[:1] if name.startswith("fc") else
                            two.get_parameter(name))  # fmt: skip
    for target in (0, 1):
        logit = copy.deepcopy(two)
        with torch.no_grad():  # the score of a class, where the other's is its negative
            for parameter in logit.fc.parameters():
                parameter.copy_(torch.stack([parameter[0] - parameter[1], parameter[1] - parameter[0]]))
        torch.testing.assert_close(gradcam(one, images, "norm", target), gradcam(logit, images, "norm", target))
    predicted = (one.eval()(images)[:, 0] > 0).long()
    torch.testing.assert_close(gradcam(one, images, "norm"), gradcam(one, images, "norm", predicted))
    with pytest.raises(AnalysisError, match=r"target 2: expected a class from 0 to 1"):
        gradcam(one, images, "norm", 2)


def state(model: nn.Module) -> Any:
    modules = [
        (m.training, len(m._forward_hooks), len(m._backward_hooks), len(m._forward_pre_hooks), vars(m).get("inplace"))
        for m in model.modules()
    ]
    return modules, [(p.requires_grad, p.grad) for p in model.parameters()], torch.get_rng_state().tolist()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("block", ["conv1", "relu2", None])
def test_the_network_is_left_as_it_was(frozen: bool, block: str | None) -> None:
    model, images = net().train(), torch.randn(3, 1, 8, 8)
    model.norm.eval()
    if frozen:
        model.requires_grad_(False)
    else:
        model.conv2.weight.requires_grad_(False)
        model.fc.weight.grad = torch.ones_like(model.fc.weight)
    before, tensors = state(model), copy.deepcopy(model.state_dict())
    maps = gradcam(model, images, block)
    with torch.no_grad():
        torch.testing.assert_close(maps, gradcam(model, images, block))
    with pytest.raises(AnalysisError, match="NaN"):
        gradcam(model, images * torch.nan, block)
    assert not maps.requires_grad
    assert state(model) == before
    assert all(torch.equal(tensors[key], value) for key, value in model.state_dict().items())
    assert images.grad is None
    torch.testing.assert_close(maps, gradcam(copy.deepcopy(model).requires_grad_(True), images, block))


def test_in_place_layers_above_do_not_change_the_map() -> None:
    model, images = net(), torch.randn(2, 1, 8, 8)
    twin = copy.deepcopy(model)
    twin.relu1, twin.relu2 = nn.ReLU(), nn.ReLU()
    for block in ("norm", "conv2", "relu1", "relu2"):
        torch.testing.assert_close(gradcam(model, images, block, 1), gradcam(twin, images, block, 1))
    assert not torch.allclose(gradcam(model, images, "conv2", 1), gradcam(model, images, "relu2", 1))


@pytest.mark.parametrize(
    ("name", "block", "size"),
    [
        ("test_resnet", "layer4", 64),
        ("test_vit", "blocks.4", 64),
        ("test_convnext", "stages", 64),
        ("cbr_demo", "layer4.relu", 64),
    ],
)
def test_the_last_block_with_a_map(name: str, block: str, size: int) -> None:
    torch.manual_seed(1)
    model, images = create_model(name, classes=3), torch.randn(2, 3, size, size)
    assert gradcam_block(model, images) == block
    maps = gradcam(model, images)
    assert maps.shape == (2, size, size)
    assert torch.equal(maps, gradcam(model, images, block))


def test_the_last_map_is_the_one_before_it_is_pooled() -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Dropout(), nn.MaxPool2d(2)]
    model = nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 2))
    assert gradcam_block(model, torch.randn(2, 1, 14, 14)) == "0.1"


def test_the_last_block_among_blocks() -> None:
    model, images = create_model("test_vit", classes=3), torch.randn(2, 3, 64, 64)
    blocks = blocks_of(model, "block")
    assert gradcam_block(model, images, blocks=blocks) == "blocks.4"  # above it, only the class token is read
    named = Blocks("stage", (Block("lower", ("blocks.0",), "blocks.0"), Block("upper", ("blocks.2",), "blocks.2")), ())
    assert gradcam_block(model, images, blocks=named) == "upper"
    assert torch.equal(gradcam(model, images, "upper", blocks=named), gradcam(model, images, "blocks.2"))
    assert gradcam_block(model, images, target=[1, 2]) == "blocks.4"
    with pytest.raises(
        AnalysisError, match=r"do not depend on the map of 'blocks.5' for any .*name the block before it"
    ):
        gradcam(model, images, "blocks.5")


def test_tokens_by_hand() -> None:
    model, images = create_model("test_vit", classes=3).eval(), torch.randn(2, 3, 64, 64)
    found = gradcam(model, images, "blocks.3", 1, scaling="raw")
    twin: Any = copy.deepcopy(model)
    a = twin.blocks[:4](twin._pos_embed(twin.patch_embed(images))).detach().requires_grad_()
    logits = twin.forward_head(twin.norm(twin.blocks[4:](a)))
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), a)
    small = torch.relu((gradient[:, 1:].mean(1, keepdim=True) * a[:, 1:]).sum(2)).detach().view(2, 1, 4, 4)
    torch.testing.assert_close(found, nn.functional.interpolate(small, (64, 64), mode="bilinear")[:, 0])
    assert found.amax() > 0


def test_windows_channels_last_and_memory_format() -> None:
    from transfuse.models.torchvision_operators import declare_operators

    declare_operators()
    from timm.models.swin_transformer import SwinTransformer

    torch.manual_seed(0)
    model = SwinTransformer(img_size=32, patch_size=2, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 4))
    assert gradcam_block(model, torch.randn(1, 3, 32, 32)) == "norm"
    assert gradcam(model, torch.randn(2, 3, 32, 32), "layers.0").shape == (2, 32, 32)
    plain, images = net(), torch.randn(2, 1, 8, 8)
    expected = gradcam(plain, images, "norm")
    plain = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(gradcam(plain, images.to(memory_format=torch.channels_last), "norm"), expected)


def test_volumes_with_monai_s_resnet() -> None:
    torch.manual_seed(0)
    model = create_model("resnet18", classes=2, channels=1, spatial_dims=3)
    maps = gradcam(model, torch.randn(1, 1, 24, 32, 40), "layer2")
    assert maps.shape == (1, 24, 32, 40)
    assert maps.amax() == 1
    assert maps.amin() >= 0


def test_outputs_that_are_tuples_and_half_precision() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return self.conv(x), "more"

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair, self.fc = Pair(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            a, word = self.pair(x)
            return self.fc(a.mean((2, 3))), word

    model, images = Mine(), torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(gradcam(model, images, "pair", 1), gradcam(model, images, "pair.conv", 1))
    half = gradcam(net().bfloat16(), images, "norm", 1)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, gradcam(net(), images, "norm", 1), atol=0.1, rtol=0.1)


def test_errors() -> None:
    model, images = net(), torch.randn(2, 1, 8, 8)
    with pytest.raises(AnalysisError, match=r"Unknown scaling 'rw': did you mean 'raw'\? Choices: each, raw"):
        gradcam(model, images, scaling="rw")
    with pytest.raises(AnalysisError, match=r"batch_size=0: expected at least 1"):
        gradcam(model, images, batch_size=0)
    with pytest.raises(AnalysisError, match=r"has no block and no module 'conv3': did you mean 'conv"):
        gradcam(model, images, "conv3")
    with pytest.raises(AnalysisError, match=r"block 'fc' gives out \(2, 3\); Grad-CAM needs a map"):
        gradcam(model, images, "fc")
    with pytest.raises(AnalysisError, match=r"target 3: expected a class from 0 to 2"):
        gradcam(model, images, "norm", 3)
    with pytest.raises(AnalysisError, match=r"target -1: expected a class from 0 to 2"):
        gradcam(model, images, "norm", [0, -1])
    with pytest.raises(AnalysisError, match=r"target=\[0, 1, 2\] for 2 images: expected a class, or 2 of them"):
        gradcam(model, images, "norm", [0, 1, 2])
    with pytest.raises(AnalysisError, match=r"images are \(1, 8\); expected a tensor \(N, C, H, W\)"):
        gradcam(model, images[0, 0, :1], "norm")
    with pytest.raises(AnalysisError, match=r"images are torch.uint8; expected floating ones"):
        gradcam(model, images.byte(), "norm")
    with pytest.raises(AnalysisError, match=r"gives out \(2, 1, 8, 8\); Grad-CAM needs class scores \(N, classes\)"):
        gradcam(nn.Sequential(nn.Conv2d(1, 1, 1)), images, "0")
    with pytest.raises(AnalysisError, match=r"no block with a map of more than one place .*looked at 0, 1"):
        gradcam(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), images)
    shared = nn.Conv2d(1, 1, 1)
    twice = nn.Sequential(shared, nn.ReLU(), shared, nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(AnalysisError, match=r"block '0' runs more than once in a pass"):
        gradcam(twice, images, "0")
    model.spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(AnalysisError, match=r"no forward pass reaches block 'spare'"):
        gradcam(model, images, "spare")
    with pytest.raises(AnalysisError, match=r"'norm' has .* NaN or infinite"):
        gradcam(model, images * torch.nan, "norm")


def test_without_monai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.visualize.class_activation_maps", None)
    with pytest.raises(ExtraNotInstalled, match=r"'monai' is needed for Grad-CAM .*pip install 'transfuse\[gradcam\]'"):
        gradcam(net(), torch.randn(2, 1, 8, 8), "norm")


def squares(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, in every second image with a bright square: images, labels and masks."""
    generator = torch.Generator().manual_seed(seed)
    images, masks = torch.randn(count, 1, 20, 20, generator=generator), torch.zeros(count, 20, 20)
    labels = torch.arange(count) % 2
    for number in range(count):
        top, left = torch.randint(1, 14, (2,), generator=generator).tolist()
        masks[number, top : top + 5, left : left + 5] = 1
    return images + 1.5 * (masks * labels.view(-1, 1, 1))[:, None], labels, masks


def test_a_trained_network_looks_at_the_square() -> None:
    torch.manual_seed(0)
    model = Net(2, width=8).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    images, labels, _ = squares(64, 0)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    images, labels, masks = squares(64, 1)
    assert (model.eval()(images).argmax(1) == labels).float().mean() > 0.9
    shown = labels == 1
    found = mass_inside(gradcam(model, images[shown], "relu2", 1), masks[shown])
    assert found.level == pytest.approx(25 / 400)
    assert found.value > 5 * found.level
    torch.manual_seed(1)
    random = mass_inside(gradcam(Net(2, width=8), images[shown], "relu2", 1), masks[shown])
    assert random.value < found.value / 2


def test_mass_inside_by_hand() -> None:
    maps = torch.tensor(
        [[[3.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[1, 1], [2, 4]]]
    )
    masks = np.array([[[1, 0], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]], [[0.5, 0], [0, 1]]])
    found = mass_inside(maps, masks)
    np.testing.assert_allclose(found.shares, [0.75, 4.5 / 8])
    np.testing.assert_allclose(found.chance, [0.25, 1.5 / 4])
    assert found.images.tolist() == [0, 3]
    assert (found.empty_masks, found.zero_maps) == (1, 1)
    assert float(found) == found.value == pytest.approx((0.75 + 4.5 / 8) / 2)
    assert found.level == pytest.approx((0.25 + 0.375) / 2)
    assert float(mass_inside(7 * maps, masks)) == pytest.approx(float(found))
    even = mass_inside(torch.ones(2, 3, 4, 5), torch.arange(60).view(3, 4, 5).expand(2, -1, -1, -1) < 7)
    np.testing.assert_allclose(even.shares, even.chance)


def test_errors_of_mass_inside() -> None:
    maps, masks = np.ones((2, 3, 3)), np.ones((2, 3, 3))
    with pytest.raises(
        AnalysisError, match=r"maps of shape \(2, 3, 3\) and masks of shape \(2, 3, 2\): expected the same"
    ):
        mass_inside(maps, masks[..., :2])
    with pytest.raises(AnalysisError, match=r"masks range from 0 to 255: .* take mask > 127 or mask / 255"):
        mass_inside(maps, 255 * masks * np.eye(3))
    with pytest.raises(AnalysisError, match=r"maps range from -1 to -1: expected finite values of at least 0"):
        mass_inside(-maps, masks)
    with pytest.raises(AnalysisError, match=r"maps range from nan"):
        mass_inside(maps * np.nan, masks)
    with pytest.raises(AnalysisError, match=r"none of 2 images .*: 1 masks are empty, and 1 maps of the others are 0"):
        mass_inside(0 * maps, masks * np.array([0, 1])[:, None, None])


def test_masks_of_the_phantoms_lie_where_the_lesions_are() -> None:
    masks = phantom_masks("fundus-phantom", range(12), size=96)
    labels = phantoms("fundus-phantom", range(12), size=96).targets
    assert masks.shape == (12, 96, 96)
    assert masks.dtype == np.float32
    assert ((masks.max((1, 2)) > 0) == (labels > 0)).all()
    assert 0 < masks.mean() < 0.2
    assert masks.max() <= 1
    tiny = phantom_masks("fundus-phantom", range(12), size=96, kinds=["microaneurysms"])
    assert (tiny <= masks).all()
    assert 0 < tiny.sum() < masks.sum()
    thing = phantom_masks("natural-phantom", range(3), size=64)
    assert (thing.mean((1, 2)) > 0.02).all()
    assert torch.equal(torch.tensor(masks[5]), torch.tensor(phantom_masks("fundus-phantom", [5], size=96)[0]))


def test_errors_of_phantom_masks() -> None:
    assert set(PHANTOMS) == {
        *("fundus-phantom", "natural-phantom", "texture-source", "texture-target"),
        "embolism-phantom",  # of volumes, whose masks are its own
    }
    choices = "fundus-phantom, natural-phantom"
    with pytest.raises(DataError, match=rf"'texture-source' has no masks of images; choices: {choices}"):
        phantom_masks("texture-source", [0])
    with pytest.raises(DataError, match=r"no phantom 'fundus'; did you mean 'fundus-phantom'"):
        phantom_masks("fundus", [0])
    with pytest.raises(DataError, match=r"no masks of lesions of kind 'haemorhages'; did you mean 'haemorrhages'"):
        phantom_masks("fundus-phantom", [0], kinds=["haemorhages"])
    with pytest.raises(DataError, match=r"no masks of lesions of kind ''"):
        phantom_masks("fundus-phantom", [0], kinds=[])
    with pytest.raises(DataError, match=r"'natural-phantom' has no masks of lesions of kind 'irma'; there are none"):
        phantom_masks("natural-phantom", [0], kinds=["irma"])
