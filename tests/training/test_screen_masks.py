"""One training with a head at every cut of a U-Net: what it measures, that dead stages add nothing, and its work."""

from __future__ import annotations

import copy
import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.data import Part, Split, open_dataset, split_by_patient
from transfuse.data.patches import Patches
from transfuse.errors import BlocksError
from transfuse.inits import initialise_
from transfuse.metrics import mean_overlap
from transfuse.models import blocks_of, create_model, mask_exits, truncate_unet
from transfuse.models.complexity import complexity
from transfuse.models.truncate_unet import is_unet
from transfuse.training import Diverged, Epoch, Optimizer, Recipe, Screen, screen
from transfuse.training.losses import dice_ce_loss
from transfuse.training.prediction import pixel_counts
from transfuse.training.screen import _EveryExit
from transfuse.training.validation import validate
from transfuse.training.windows import maps_by_windows

RECIPE = Recipe(optimizer=Optimizer(learning_rate=3e-3), batch_size=6, monitor="dice", validate_every=3)
ENDS = ("encoder.layer1", "encoder.layer2", "all")


@pytest.fixture(scope="module")
def vessels() -> Split:
    return split_by_patient(open_dataset("fundus-vessels", count=24, size=32, normalise="half"))


@cache
def unet(dead_from: int = 4) -> nn.Module:
    """A U-Net of four stages whose encoder gives nothing from one on: no weight there can be trained, either."""
    model = create_model("unet_resnet18", 2, 3)
    initialise_(model, blocks_of(model), source=None, depth=0, rest="random", seed=0)
    with torch.no_grad():
        for stage in range(dead_from, 4):
            for parameter in model.get_submodule(f"encoder.layer{stage}").parameters():
                parameter.zero_()
    return truncate_unet(model, None, "encoder.layer3", 2)


class _Exit(nn.Module):
    """One exit of a network."""

    def __init__(self, network: nn.Module, number: int) -> None:
        super().__init__()
        self.network, self.number = network, number

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.network(images)
        return maps[:, self.number]


def told(found: Screen) -> tuple[Any, ...]:
    return (*found.exits, *(one.scores.tobytes() for one in found.exits), found.training_macs, found.validation_macs)


def test_dice_is_that_of_the_counted_pixels(vessels: Split) -> None:
    model, seen = unet(), list[Epoch]()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = screen(model, blocks_of(model), vessels, RECIPE, steps=6, depths=ENDS, watch=seen.append)
    assert [one.block for one in found.exits] == ["encoder.layer1", "encoder.layer2", "encoder.layer3"]
    masks = vessels.val.truth(np.arange(len(vessels.val))).numpy()
    for one in found.exits:
        assert one.scores.shape == (len(vessels.val), 2, 3)
        assert one.scores.dtype == np.int64
        np.testing.assert_array_equal(one.scores[:, 1, [0, 2]].sum(1), (masks == 1).sum((1, 2)))
        assert mean_overlap(one.scores).value == one.value == max(one.curve)
        assert one.curve == tuple(epoch.validation[f"dice/{one.block}"] for epoch in seen)
        assert one.step == seen[one.curve.index(one.value)].step
    means = [np.mean([one.curve[place] for one in found.exits]) for place in range(2)]
    assert [epoch.validation["dice"] for epoch in seen] == pytest.approx(means)
    assert {"loss", "jaccard"} < set(seen[0].validation)
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)


def test_a_validation_is_that_of_each_exit_by_itself(vessels: Split) -> None:
    model = unet()
    network = mask_exits(model, None, 2, depths=ENDS, image_size=32)

    objective = _EveryExit(network.exits, "joint", vessels.val, RECIPE, dice_ce_loss)
    found = objective.validate(network)
    alone = [validate(_Exit(network, number), vessels.val, dice_ce_loss, RECIPE) for number in range(3)]
    assert found is not None
    for name in ("loss", "dice", "jaccard"):
        assert found[name] == pytest.approx(np.mean([one[name] for one in alone if one is not None]))
    network.eval()
    with torch.no_grad():
        maps = torch.cat([network(images) for images, _ in vessels.val.batches(2)])
    masks = vessels.val.truth(np.arange(len(vessels.val)))
    for number, scores in enumerate(objective.scores):
        assert torch.equal(scores, pixel_counts(maps[:, number], masks))


def test_a_stage_that_gives_nothing_changes_nothing_and_is_never_chosen(vessels: Split) -> None:
    found = screen(unet(dead_from=2), blocks_of(unet()), vessels, RECIPE, steps=12)
    stem, live, *dead = found.exits
    assert live.value > 0
    for one in dead:
        assert (one.curve, one.scores.tobytes()) == (live.curve, live.scores.tobytes())
    assert stem.curve != live.curve
    assert found.ranked[0].block in ("encoder.stem", "encoder.layer1")
    every = screen(unet(), blocks_of(unet()), vessels, RECIPE, steps=3)
    assert len({one.scores.tobytes() for one in every.exits}) > 2  # of a network that lives they differ


def test_an_interrupted_screen_and_a_whole_one_are_the_same(vessels: Split, tmp_path: Path) -> None:
    model = unet()

    def run(folder: Path | None, most: int = 99) -> Screen:
        def stop(epoch: Epoch) -> None:
            if epoch.step >= most:
                raise KeyboardInterrupt

        options: dict[str, Any] = {"steps": 9, "depths": ["encoder.stem", "encoder.layer1"], "watch": stop}
        return screen(model, blocks_of(model), vessels, RECIPE, checkpoint_dir=folder, seed=3, **options)

    whole = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 6)
    resumed = run(tmp_path)
    assert told(resumed) == told(whole)
    torch.testing.assert_close(dict(resumed.network.state_dict()), dict(whole.network.state_dict()), rtol=0, atol=0)


def macs_of(network: nn.Module, model: nn.Module) -> tuple[int, int]:
    """Of one image of 32 px, of the encoder and of the heads, by the sizes of their convolutions."""
    encoder = sum(
        cost.macs for name, cost in complexity(model, 32).per_block.items() if name.startswith("encoder.")
    )  # fmt: skip
    sides, widths = (16, 8, 4, 2), (64, 64, 128, 256)
    heads = 0
    for head in network.get_submodule("heads"):  # type: ignore[union-attr]
        read = len(head.projections)
        heads += sum(16 * width * side**2 for side, width in zip(sides[:read], widths[:read], strict=True))
        heads += 16**2 * 9 * 16 * (16 + 16 + 2)
    return encoder, heads


@pytest.mark.parametrize("trunk", ["joint", "frozen"])
def test_the_work_is_counted(vessels: Split, trunk: str) -> None:
    model = unet()
    found = screen(model, blocks_of(model), vessels, RECIPE, steps=2, trunk=trunk)
    encoder, heads = macs_of(found.network, model)
    learning = heads + (encoder if trunk == "joint" else 0)
    assert found.training_macs == 2 * 6 * (encoder + heads + 2 * learning)
    assert found.validation_macs == len(vessels.val) * (encoder + heads)


def test_empty_masks_and_one_cut(vessels: Split) -> None:
    dataset = copy.copy(vessels.train.dataset)
    empty = np.zeros_like(dataset.masks())
    dataset.masks = lambda: empty  # type: ignore[method-assign]
    split = Split(*(Part(dataset, part.indices) for part in (vessels.train, vessels.val, vessels.test)))
    model = unet()
    found = screen(model, blocks_of(model), split, RECIPE, steps=12, depths=["encoder.layer1"])
    (one,) = found.exits
    assert one.block == "encoder.layer1"
    assert one.value == 1.0  # nothing is there, and nothing is found
    assert not one.scores[:, 1].any()


def test_mistakes(vessels: Split) -> None:
    model = unet()
    with pytest.raises(BlocksError, match=r"pool='none': the heads of a U-Net's screen are of one kind; leave pool"):
        screen(model, blocks_of(model), vessels, RECIPE, steps=2, pool="none")
    resnet = create_model("resnet18", 2)
    with pytest.raises(BlocksError, match=r"This ResNet is no U-Net that is known here"):
        screen(resnet, blocks_of(resnet), vessels, RECIPE, steps=2)


def test_an_exit_that_diverges_is_named(vessels: Split) -> None:
    model = copy.deepcopy(unet())
    with torch.no_grad():
        model.get_submodule("encoder.layer2.0.conv1").weight.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(Diverged, match=r"the training loss is nan \(exit 'encoder.layer2', 'encoder.layer3'\) at step"):
        screen(model, blocks_of(model), vessels, RECIPE, steps=4, depths=ENDS)


@pytest.mark.slow
def test_volumes_by_patches() -> None:
    model = create_model("unet3d", 2, 1, 3)
    if not is_unet(model):
        pytest.skip("truncate_unet does not cut MONAI's U-Net")
    volumes = split_by_patient(open_dataset("embolism-vessels", count=12, size=40, normalise="half"))
    recipe = dataclasses.replace(RECIPE, batch_size=4, validate_every=2, patches=Patches((32, 32, 32)))
    depths = ["conv_0", "down_1"]
    found = screen(model, blocks_of(model), volumes, recipe, steps=2, depths=depths)
    assert [one.block for one in found.exits] == depths
    network = found.network.eval()
    for number, one in enumerate(found.exits):
        assert (one.scores[:, :, [0, 2]].sum((1, 2)) == 40**3).all()
        whole, _ = next(volumes.val.batches(1))
        with torch.no_grad():
            maps = maps_by_windows(_Exit(network, number), whole, recipe.patches)
        counts = pixel_counts(maps, volumes.val.truth(np.arange(1)))
        np.testing.assert_array_equal(counts[0], one.scores[0])
