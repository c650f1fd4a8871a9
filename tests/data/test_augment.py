from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from transfuse.data.augment import (
    AUGMENTATIONS,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    cifar,
    crop_and_rotate,
    flip,
    random_crop_boxes,
    ten_crop,
    to_luminance,
)
from transfuse.errors import DataError

FLAT = [name for name in AUGMENTATIONS if name != "volume"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand((6, 3, 20, 20), generator=seeded(1))


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_preset_keeps_shape_and_range_and_repeats(name: str, channels: int) -> None:
    images = torch.rand((40, channels, 24, 24), generator=seeded(1))
    before = images.clone()
    augment = AUGMENTATIONS[name]
    first, second, other = augment(images, seeded(5)), augment(images, seeded(5)), augment(images, seeded(6))
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, second)
    assert torch.equal(images, before), "the batch that came in was changed"
    assert torch.equal(first, other) == (name == "none")


@pytest.mark.parametrize("name", [name for name in FLAT if name != "none"])
def test_every_image_gets_parameters_of_its_own(name: str) -> None:
    one = torch.rand((1, 3, 24, 24), generator=seeded(1))
    result = AUGMENTATIONS[name](one.repeat(12, 1, 1, 1), seeded(5))
    assert len({tuple(row.flatten().tolist()) for row in result}) >= 9  # cifar has only 98 windows to draw from


@pytest.mark.parametrize("name", FLAT)
def test_presets_leave_the_global_generators_alone(name: str, images: torch.Tensor) -> None:
    state = torch.random.get_rng_state()
    AUGMENTATIONS[name](images, seeded())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FLAT)
def test_a_mask_moves_with_its_image(name: str, channels: int) -> None:
    """Images painted from their masks: after any preset the bright pixels are those of the class, edges aside."""
    y, x = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    centres = torch.rand((30, 2, 1, 1), generator=seeded(2)) * 30 + 5
    masks = ((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2 < 60).long() + (x > 30).long() * 2
    masks.clamp_(max=2)
    images = (0.3 + 0.25 * masks).unsqueeze(1).repeat(1, channels, 1, 1)
    moved, labels = AUGMENTATIONS[name].together(images, masks, seeded(5))
    assert labels.dtype == masks.dtype
    assert labels.shape == masks.shape
    assert torch.equal(moved, AUGMENTATIONS[name](images, seeded(5))), "masks change what is drawn"
    assert torch.equal(labels == masks, torch.ones_like(labels, dtype=torch.bool)) == (name == "none")
    one_hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    inside = torch.nn.functional.max_pool2d(one_hot, 3, 1, 1).sum(1) == 1  # no other label beside it
    assert inside.float().mean() > 0.6
    for image, label, clear in zip(moved.mean(1), labels, inside, strict=True):
        values = [image[clear & (label == k)] for k in range(3)]
        for lower, higher in pairwise(values):
            if len(lower) and len(higher):
                assert lower.max() < higher.min()
        for of_class in values[1:]:  # one colour each, but for the black border that cifar adds to class 0
            if len(of_class):
                assert of_class.max() - of_class.min() < 0.16  # half a step between classes, at the largest contrast


def test_labels_are_never_mixed() -> None:
    masks = torch.randint(0, 2, (8, 24, 24), generator=seeded(3)) * 200
    for augment in (AUGMENTATIONS[name] for name in FLAT):
        labels = augment.together(torch.rand((8, 3, 24, 24), generator=seeded(1)), masks, seeded(4))[1]
        assert set(labels.unique().tolist()) <= {0, 200}


def test_presets_are_pickled_by_name() -> None:
    import copy
    import pickle

    for augment in AUGMENTATIONS.values():
        assert pickle.loads(pickle.dumps(augment)) is augment
        assert copy.deepcopy(augment) is augment
        assert augment.__doc__


@pytest.mark.parametrize("axis", [-1, -2])
def test_flipping(images: torch.Tensor, axis: int) -> None:
    which = torch.tensor([True, False, True, False, True, True])
    once = flip(images, which, axis)
    assert torch.equal(once[which], images[which].flip(axis))
    assert torch.equal(once[~which], images[~which])
    assert torch.equal(flip(once, which, axis), images)


def test_chest_films_are_never_mirrored_and_fundus_photographs_are() -> None:
    # Brightness rises from left to right and from top to bottom: the sign of the slope tells a mirrored image.
    ramp = torch.linspace(0.2, 0.4, 32)
    images = (ramp.view(1, 1, 1, -1) + 2 * ramp.view(1, 1, -1, 1)).clamp(0, 1).repeat(200, 3, 1, 1)

    def mirrored(name: str, axis: int) -> float:  # away from the edges, where cifar has black borders
        result = AUGMENTATIONS[name](images, seeded())
        return float(
            (result.select(axis, 8).mean(dim=(1, 2)) > result.select(axis, -9).mean(dim=(1, 2))).float().mean()
        )

    for name, across, down in [
        ("cxr", 0, 0),
        ("peng", 0, 0),
        ("fundus", 0.5, 0.5),
        ("matsoukas", 0.5, 0.5),
        ("cifar", 0.5, 0),
    ]:
        assert mirrored(name, -1) == pytest.approx(across, abs=0.12), name
        assert mirrored(name, -2) == pytest.approx(down, abs=0.12), name


def test_crop_boxes_lie_inside_and_have_the_area_and_ratio_asked_for() -> None:
    x, y, width, height = random_crop_boxes(5000, (0.08, 1.0), (3 / 4, 4 / 3), seeded()).unbind(1)
    assert (x - width / 2).min() >= -1e-6
    assert (x + width / 2).max() <= 1 + 1e-6
    assert (y - height / 2).min() >= -1e-6
    assert (y + height / 2).max() <= 1 + 1e-6
    area, ratio = width * height, width / height
    assert 0.08 <= area.min() < 0.09
    assert 0.98 < area.max() <= 1 + 1e-6
    assert ratio.min() >= 3 / 4 - 1e-6
    assert ratio.max() <= 4 / 3 + 1e-6
    assert torch.log(ratio).mean().abs() < 0.01


def test_mild_crops_keep_nine_tenths_of_the_area_and_the_aspect() -> None:
    _, _, width, height = random_crop_boxes(2000, (0.9, 1.0), (1.0, 1.0), seeded()).unbind(1)
    torch.testing.assert_close(width, height)
    assert (width * height).min() >= 0.9 - 1e-6
    assert (width * height).max() <= 1 + 1e-6


def test_areas_above_one_fall_back_to_the_whole_image() -> None:
    boxes = random_crop_boxes(500, (1.2, 1.3), (1.0, 1.0), seeded())
    torch.testing.assert_close(boxes, torch.tensor([[0.5, 0.5, 1.0, 1.0]]).expand(500, 4))


def test_the_whole_box_is_the_identity_and_a_box_is_what_torchvision_crops(
    images: torch.Tensor, functional: Any
) -> None:
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]]).expand(len(images), 4)
    torch.testing.assert_close(crop_and_rotate(images, whole), images, atol=1e-5, rtol=0)
    left, top, width, height = 4, 6, 12, 10  # of 20
    box = torch.tensor([[(left + width / 2) / 20, (top + height / 2) / 20, width / 20, height / 20]]).expand(
        len(images), 4
    )
    expected = functional.resized_crop(images, top, left, height, width, [20, 20], antialias=False)
    ours = crop_and_rotate(images, box)
    # Beyond the outermost pixel centres torchvision repeats the crop's edge, we see the image that is there.
    torch.testing.assert_close(ours[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-5, rtol=0)


def test_rotation(images: torch.Tensor, functional: Any) -> None:
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]]).expand(len(images), 4)
    quarter = crop_and_rotate(images, whole, torch.full((len(images),), 90.0))
    torch.testing.assert_close(quarter, torch.rot90(images, 1, (-2, -1)), atol=1e-4, rtol=0)
    expected = functional.rotate(images, 10.0, interpolation=functional.InterpolationMode.BILINEAR)
    ours = crop_and_rotate(images, whole, torch.full((len(images),), 10.0))
    torch.testing.assert_close(ours[..., 5:-5, 5:-5], expected[..., 5:-5, 5:-5], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("ours", "name", "amounts"),
    [
        (adjust_hue, "adjust_hue", (-0.5, -0.3, -0.05, 0.0, 0.1, 0.5)),
        (adjust_contrast, "adjust_contrast", (0.0, 0.8, 1.0, 1.2, 3.0, 0.5)),
        (adjust_brightness, "adjust_brightness", (0.0, 0.8, 1.0, 1.2, 3.0, 0.5)),
        (adjust_saturation, "adjust_saturation", (0.0, 0.8, 1.0, 1.2, 3.0, 0.5)),
    ],
)
def test_colours_are_torchvisions(
    ours: Any, name: str, amounts: tuple[float, ...], images: torch.Tensor, functional: Any
) -> None:
    images[0, :, :3] = images[0, :1, :3]  # some grey pixels
    result = ours(images, torch.tensor(amounts))
    for row, amount in enumerate(amounts):
        torch.testing.assert_close(result[row], getattr(functional, name)(images[row], amount), atol=2e-5, rtol=0)
    torch.testing.assert_close(to_luminance(images), functional.rgb_to_grayscale(images), atol=1e-6, rtol=0)


def test_hue_leaves_grey_alone_and_a_full_turn_is_none(images: torch.Tensor) -> None:
    turns = torch.full((6,), 0.13)
    grey = images[:, :1].repeat(1, 3, 1, 1)
    assert torch.equal(adjust_hue(grey, turns), grey)
    assert torch.equal(adjust_hue(images[:, :1], turns), images[:, :1])
    torch.testing.assert_close(adjust_hue(adjust_hue(images, turns), -turns), images, atol=1e-5, rtol=0)
    third = adjust_hue(images, torch.full((6,), 1 / 3))
    torch.testing.assert_close(third, images.roll(1, 1), atol=1e-5, rtol=0)


def test_cifar_is_a_shifted_window_of_the_padded_image() -> None:
    image = torch.rand((1, 3, 32, 32), generator=seeded(3))
    padded = torch.nn.functional.pad(image, (4,) * 4)
    windows = [padded[0, :, y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
    windows += [window.flip(-1) for window in windows]
    for result in cifar(image.repeat(30, 1, 1, 1), seeded()):
        assert any(torch.equal(result, window) for window in windows)


@pytest.mark.parametrize("size", [13, 14, 20])
def test_ten_crop_is_torchvisions(images: torch.Tensor, size: int, functional: Any) -> None:
    expected = torch.stack(functional.ten_crop(images, [size, size]), dim=1)
    assert torch.equal(ten_crop(images, size), expected)


def test_ten_crop_too_large(images: torch.Tensor) -> None:
    with pytest.raises(DataError, match="ten_crop of size 21 does not fit images of 20 x 20 pixels"):
        ten_crop(images, 21)


def test_matsoukas_changes_colour_in_a_fifth_of_the_images() -> None:
    flat = torch.tensor([0.5, 0.3, 0.1]).view(1, 3, 1, 1).expand(3000, 3, 8, 8)
    result = AUGMENTATIONS["matsoukas"](flat, seeded())
    grey = (result - result.mean(1, keepdim=True)).abs().amax(dim=(1, 2, 3)) < 1e-6
    changed = (result - flat).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert float(grey.float().mean()) == pytest.approx(0.2, abs=0.03)
    assert float(changed.float().mean()) == pytest.approx(1 - 0.8 * 0.8, abs=0.04)
    assert math.isfinite(float(result.sum()))
