"""Training on patches of volumes, and maps of whole volumes out of windows."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfuse.data import Split, open_dataset, split_by_patient
from transfuse.data.patches import Patches
from transfuse.errors import DataError, TrainingError
from transfuse.training import Epoch, Recipe, fit, predict, segment
from transfuse.training.batches import make_batches
from transfuse.training.prediction import maps_of, pixel_counts
from transfuse.training.windows import maps_by_windows


@pytest.fixture(scope="module")
def clots() -> Split:
    return split_by_patient(open_dataset("embolism-vessels", count=10, size=24, normalise="half"))


def painter(kernel: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv3d(1, 4, kernel, padding=kernel // 2), nn.ReLU(), nn.Dropout(0.1), nn.Conv3d(4, 3, 1)
        )


def recipe(patches: Patches | None, augment: str = "volume") -> Recipe:
    return Recipe(batch_size=3, validate_every=2, augment=augment, monitor="dice", patches=patches)


def trained(split: Split, patches: Patches | None, **how: object) -> tuple[list[Epoch], dict[str, Tensor], nn.Module]:
    network = painter()
    epochs = list(fit(network, split, recipe(patches), **{"steps": 4, "device": "cpu", **how}))  # type: ignore[arg-type]
    return epochs, network.state_dict(), network


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def values(epochs: list[Epoch]) -> list[tuple]:
    return [(epoch.step, epoch.train_loss, sorted(epoch.validation.items())) for epoch in epochs]


def test_a_patch_as_large_as_the_volume_is_the_whole_volume(clots: Split) -> None:
    whole, patched = trained(clots, None), trained(clots, Patches(24))
    assert values(whole[0]) == values(patched[0])
    assert same(whole[1], patched[1])
    np.testing.assert_array_equal(predict(whole[2], clots.test), predict(whole[2], clots.test, patches=Patches(24)))


def test_a_seed_gives_the_same_training_and_another_another(clots: Split) -> None:
    one, again = trained(clots, Patches(12), seed=1), trained(clots, Patches(12), seed=1)
    assert values(one[0]) == values(again[0])
    assert same(one[1], again[1])
    assert not same(one[1], trained(clots, Patches(12), seed=2)[1])
    assert not same(one[1], trained(clots, Patches(12, foreground=0), seed=1)[1])


def test_it_goes_on_bit_for_bit_and_only_with_the_same_patches(clots: Split, tmp_path: Path) -> None:
    straight = trained(clots, Patches(12))
    for epoch in fit(painter(), clots, recipe(Patches(12)), steps=4, device="cpu", checkpoint_dir=tmp_path):
        if epoch.step == 2:
            break
    gone_on = trained(clots, Patches(12), checkpoint_dir=tmp_path)
    assert values(straight[0]) == values(gone_on[0])
    assert same(straight[1], gone_on[1])
    with pytest.raises(TrainingError, match="patches"):
        trained(clots, Patches(8), checkpoint_dir=tmp_path)


def test_a_patch_is_cut_out_of_the_augmented_volume(clots: Split) -> None:
    network = painter()
    whole, patched = (make_batches(clots.train, recipe(patches), network, seed=5) for patches in (None, Patches(8)))
    positions = whole.positions(3, whole.order(1))
    (volumes, masks), (cut, of_cut) = whole.drawn(positions, 3), patched.drawn(positions, 3)
    assert cut.shape == (len(positions), 1, 8, 8, 8)
    for volume, mask, patch, part in zip(volumes, masks, cut, of_cut, strict=True):
        windows = volume[0].unfold(0, 8, 1).unfold(1, 8, 1).unfold(2, 8, 1)
        [[d, h, w]] = (windows == patch[0]).flatten(3).all(3).nonzero().tolist()
        assert torch.equal(mask[d : d + 8, h : h + 8, w : w + 8], part)


@pytest.mark.parametrize("box", [12, (8, 16, 24), (5, 24, 11)])
def test_a_network_that_sees_single_voxels_makes_the_same_of_windows(clots: Split, box: int | tuple) -> None:
    network = painter(kernel=1)
    direct = torch.cat([maps for maps, _ in maps_of(network, clots.test)])
    patches = Patches(box)
    by_windows = torch.cat([maps for maps, _ in maps_of(network, clots.test, patches=patches)])
    torch.testing.assert_close(by_windows, direct, rtol=1e-5, atol=1e-5)
    truth = torch.from_numpy(clots.test.dataset.masks()[clots.test.indices].astype(np.int64))
    np.testing.assert_array_equal(predict(network, clots.test, patches=patches), pixel_counts(by_windows, truth))
    np.testing.assert_array_equal(segment(network, clots.test, patches=patches), by_windows.argmax(1))


def test_windows_by_their_definition() -> None:
    """Steps of half a window, the last ends with the volume; each voxel's mean by a Gaussian of an eighth of a side."""
    network = painter().eval()
    box, sides = (8, 6, 10), (14, 9, 10)
    volume = torch.randn(1, 1, *sides, generator=torch.Generator().manual_seed(2))
    total, weight = torch.zeros(1, 3, *sides), torch.zeros(1, 1, *sides)
    bells = []
    for own in box:
        away = torch.arange(own) - (own - 1) / 2
        bells.append(torch.exp(-0.5 * (away / (0.125 * own)) ** 2))
    bell = (bells[0][:, None, None] * bells[1][None, :, None] * bells[2][None, None, :]).clamp_min(1e-3)
    starts = []
    for own, side in zip(box, sides, strict=True):
        count = math.ceil((side - own) / (own // 2)) + 1
        starts.append([min(k * (own // 2), side - own) for k in range(count)])
    with torch.no_grad():
        for corner in product(*starts):
            place = (..., *(slice(start, start + own) for start, own in zip(corner, box, strict=True)))
            total[place] += bell * network(volume[place])
            weight[place] += bell
        found = maps_by_windows(network, volume, Patches(box))
        assert not torch.allclose(found, network(volume), atol=1e-3)  # a window does not see beyond its border
    torch.testing.assert_close(found, total / weight, rtol=1e-5, atol=1e-5)


def test_patches_that_do_not_suit_the_network_name_the_nearest(clots: Split, tiny_npz: Path) -> None:
    class Shrinking(nn.Sequential):
        def __init__(self, side: int) -> None:
            super().__init__(nn.Conv3d(1, 3, 1), nn.MaxPool3d(side), nn.Upsample(scale_factor=side))

    with pytest.raises(
        TrainingError, match=r"the patch of 12 x 12 x 12 .* \(8 x 8 x 8\).*nearest that is, is \[16, 16, 16\]"
    ):
        fit(Shrinking(8), clots, recipe(Patches(12)), steps=1)
    with pytest.raises(TrainingError, match=r"no patch of these volumes is: larger volumes \(data.size\), or no patch"):
        fit(Shrinking(32), clots, recipe(Patches(12)), steps=1)
    with pytest.raises(DataError, match="expected at most 24 a side"):
        fit(painter(), clots, recipe(Patches(25)), steps=1)
    with pytest.raises(DataError, match="expected at most 24 a side"):
        predict(painter(), clots.test, patches=Patches((8, 8, 25)))
    with pytest.raises(DataError, match="expected at most 24 a side"):
        segment(painter(), clots.test, patches=Patches(32))
    images = split_by_patient(open_dataset(str(tiny_npz), size=16))
    with pytest.raises(DataError, match="Patches are of volumes, and spots holds images"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(256, 2)), images, Recipe(patches=Patches(8)), steps=1)
    volumes = split_by_patient(open_dataset("embolism-phantom", count=20, size=24))
    with pytest.raises(DataError, match="is of a whole volume"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(24**3, 2)), volumes, Recipe(patches=Patches(8)), steps=1)
