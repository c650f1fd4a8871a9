"""Augmentation of volumes, against flips, quarter turns and torch's own grid of affine maps."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from transfuse.data.augment import AUGMENTATIONS, check_augmentation
from transfuse.data.augment_volumes import move, rotations
from transfuse.errors import DataError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def volumes() -> torch.Tensor:
    return torch.rand((4, 1, 8, 10, 12), generator=seeded(1))


@pytest.mark.parametrize("channels", [1, 2])
def test_the_set_keeps_shape_and_range_and_repeats(channels: int) -> None:
    volumes = torch.rand((12, channels, 9, 9, 9), generator=seeded(1))
    before, state = volumes.clone(), torch.random.get_rng_state()
    augment = AUGMENTATIONS["volume"]
    first, second, other = augment(volumes, seeded(5)), augment(volumes, seeded(5)), augment(volumes, seeded(6))
    assert first.shape == volumes.shape
    assert (first.min() >= 0, first.max() <= 1) == (True, True)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(volumes, before), "the batch that came in was changed"
    assert torch.equal(torch.random.get_rng_state(), state)
    same = augment(volumes[:1].repeat(12, 1, 1, 1, 1), seeded(5))
    assert len({tuple(row.flatten().tolist()) for row in same}) == 12, "each volume gets parameters of its own"


@pytest.mark.parametrize(("row", "axis"), [(0, -1), (1, -2), (2, -3)])
def test_mirroring_an_axis_is_a_flip(volumes: torch.Tensor, row: int, axis: int) -> None:
    matrix = torch.eye(3)
    matrix[row, row] = -1
    moved = move(volumes, matrix.expand(4, 3, 3), torch.zeros(4, 3))
    torch.testing.assert_close(moved, volumes.flip(axis), atol=1e-5, rtol=0)


def test_a_quarter_turn_and_a_shift_by_whole_voxels() -> None:
    cubes = torch.rand((2, 1, 6, 6, 6), generator=seeded())
    about_z = rotations(torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3), torch.tensor([90.0, -90.0]))
    turned = move(cubes, about_z, torch.zeros(2, 3))
    torch.testing.assert_close(turned[0], cubes[0].rot90(1, (-2, -1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[1], cubes[1].rot90(-1, (-2, -1)), atol=1e-5, rtol=0)
    shifted = move(cubes, torch.eye(3).expand(2, 3, 3), torch.tensor([[0.0, 0.0, 2 * 2 / 6]]).expand(2, 3))
    torch.testing.assert_close(shifted[:, :, :4], cubes[:, :, 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(shifted[:, :, 4:], cubes[:, :, 5:].expand(-1, -1, 2, -1, -1), atol=1e-5, rtol=0)


def test_any_map_is_torch_s_affine_grid(volumes: torch.Tensor) -> None:
    matrices, shifts = torch.randn((4, 3, 3), generator=seeded()), 0.2 * torch.randn((4, 3), generator=seeded(1))
    grid = functional.affine_grid(torch.cat([matrices, shifts.unsqueeze(2)], 2), list(volumes.shape), False)
    expected = functional.grid_sample(volumes, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(move(volumes, matrices, shifts), expected, atol=1e-4, rtol=0)


def test_rotations_are_rotations() -> None:
    matrices = rotations(torch.randn((20, 3), generator=seeded()), torch.linspace(-170, 170, 20))
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(3).expand(20, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(20))
    traces = matrices.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(traces, 1 + 2 * torch.cos(torch.deg2rad(torch.linspace(-170, 170, 20))))


def test_sets_are_refused_where_they_do_not_fit() -> None:
    for name in AUGMENTATIONS:
        fits = {2: name != "volume", 3: name in ("none", "volume")}
        for dims, fitting in fits.items():
            if fitting:
                check_augmentation(name, dims)
                continue
            what = "is for volumes, and these are images" if dims == 2 else "is for images, and these are volumes"
            with pytest.raises(DataError, match=f"The augmentation '{name}' {what}; choices: none, "):
                check_augmentation(name, dims)


def test_a_mask_moves_with_its_volume() -> None:
    """A mask of the volume's own bright half stays, nearly, the mask of its bright half."""
    cubes = torch.zeros((6, 1, 12, 12, 12))
    cubes[:, :, :, :6] = 0.8
    moved, labels = AUGMENTATIONS["volume"].together(cubes, (cubes[:, 0] > 0.4).long(), seeded(3))
    assert labels.shape == (6, 12, 12, 12)
    assert ((moved[:, 0] > 0.4).long() == labels).float().mean() > 0.95
    assert torch.equal(moved, AUGMENTATIONS["volume"](cubes, seeded(3)))
