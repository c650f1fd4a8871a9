"""Patches of volumes: where they lie, that masks lie there too, and that a seed gives the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from transfuse.data import open_dataset
from transfuse.data.patches import Patches, check_patches
from transfuse.errors import DataError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, *sides: int) -> tuple[Tensor, Tensor]:
    """Volumes of which each voxel says where it is, in three channels; masks of the sum of the three, modulo 3."""
    places = torch.stack(torch.meshgrid(*map(torch.arange, sides), indexing="ij"))
    volumes = places.expand(count, -1, -1, -1, -1)
    return volumes.float(), volumes.sum(1) % 3


def test_image_and_mask_are_cut_at_the_same_place() -> None:
    volumes, masks = numbered(40, 9, 7, 8)
    patches, cut = Patches((4, 7, 5)).drawn(volumes, masks, seeded(0))
    assert patches.shape == (40, 3, 4, 7, 5)
    assert cut.dtype == torch.int64
    torch.testing.assert_close(cut, patches.sum(1).long() % 3)
    corners = patches[:, :, 0, 0, 0]
    torch.testing.assert_close(
        patches - corners[:, :, None, None, None], numbered(40, 4, 7, 5)[0]
    )  # no voxel is skipped
    assert len({tuple(corner) for corner in corners.tolist()}) > 10


def test_a_seed_gives_the_same_patches_and_another_gives_others() -> None:
    volumes, masks = numbered(6, 12, 12, 12)
    one, again, other = (Patches(5).drawn(volumes, masks, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])


def test_every_place_is_as_likely_where_no_class_draws() -> None:
    volumes, masks = numbered(3000, 4, 3, 3)
    patches, _ = Patches((2, 3, 2), foreground=0).drawn(volumes, masks, seeded(3))
    counts = Counter(tuple(corner) for corner in patches[:, :, 0, 0, 0].int().tolist())
    assert set(counts) == {(d, 0, w) for d in range(3) for w in range(2)}
    assert all(abs(count - 500) < 5 * (3000 * (1 / 6) * (5 / 6)) ** 0.5 for count in counts.values())


def test_classes_are_as_likely_as_each_other_and_lie_in_the_middle() -> None:
    volumes, _ = numbered(1000, 11, 11, 11)
    masks = torch.zeros(1000, 11, 11, 11, dtype=torch.int64)
    masks[:, 5, 5, 5] = 1  # a single voxel against a slab
    masks[:, 7, 3:8, 3:8] = 2
    patches, cut = Patches(5, foreground=1).drawn(volumes, masks, seeded(4))
    middles = cut[:, 2, 2, 2]
    assert set(middles.unique().tolist()) == {1, 2}
    assert abs(int((middles == 1).sum()) - 500) < 5 * (1000 / 4) ** 0.5
    assert (patches[middles == 1, :, 2, 2, 2] == 5).all()
    shares = [
        float((Patches(5, share).drawn(volumes, masks, seeded(5))[1][:, 2, 2, 2] > 0).float().mean())
        for share in (0, 0.5)
    ]
    assert 0.4 < shares[1] - shares[0] < 0.6


def test_at_a_border_the_voxel_is_as_near_to_the_middle_as_can_be() -> None:
    volumes, _ = numbered(1, 8, 8, 8)
    masks = torch.zeros(1, 8, 8, 8, dtype=torch.int64)
    masks[0, 0, 7, 3] = 1
    patches, cut = Patches(4, foreground=1).drawn(volumes, masks, seeded(0))
    assert patches[0, :, 0, 0, 0].tolist() == [0, 4, 1]
    assert cut[0, 0, 3, 2] == 1


def test_an_empty_mask_and_a_patch_of_the_whole_volume() -> None:
    volumes, masks = numbered(5, 6, 6, 6)
    whole, cut = Patches(6, foreground=1).drawn(volumes, masks, seeded(0))
    assert torch.equal(whole, volumes)
    assert torch.equal(cut, masks)
    anywhere, _ = Patches(3, foreground=1).drawn(volumes, torch.zeros_like(masks), seeded(0))
    uniform, _ = Patches(3, foreground=0).drawn(volumes, masks, seeded(0))
    assert torch.equal(anywhere, uniform)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), r"A patch of 0: expected one side or \(D, H, W\), whole numbers of at least 1"),
        (((8, 8),), r"A patch of \(8, 8\): expected one side"),
        (((8, 8, 2.5),), r"A patch of \(8, 8, 2.5\)"),
        ((8, 1.5), r"The share of patches around a class is 1.5; expected 0 to 1"),
    ],
)
def test_patches_that_cannot_be_meant(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Patches(*arguments)


def test_data_without_patches_say_why(tiny_npz: Path) -> None:
    with pytest.raises(DataError, match="Patches are of volumes, and spots holds images; leave the patch out"):
        check_patches(Patches(8), open_dataset(str(tiny_npz), size=16))
    with pytest.raises(DataError, match="a label of embolism-phantom is of a whole volume, and a patch may not show"):
        check_patches(Patches(8), open_dataset("embolism-phantom", size=24, count=10))
    volumes = open_dataset("embolism-vessels", size=24, count=10)
    check_patches(Patches(24), volumes)
    with pytest.raises(DataError, match="24 x 25 x 8 voxels is larger than the volumes of embolism-vessels as deliver"):
        check_patches(Patches((24, 25, 8)), volumes)
    with pytest.raises(DataError, match="expected at most 24 a side"):
        check_patches(Patches(32), volumes)
