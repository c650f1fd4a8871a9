"""Training on masks: the loss, what is counted, and that a training repeats and resumes bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfuse.data import Split, open_dataset, split_by_patient
from transfuse.errors import TrainingError
from transfuse.metrics import mean_overlap, overlap
from transfuse.training import Epoch, Recipe, fit, predict, segment
from transfuse.training.losses import dice_ce_loss, loss_for
from transfuse.training.prediction import maps_of, pixel_counts


@pytest.fixture(scope="module")
def vessels() -> Split:
    return split_by_patient(open_dataset("fundus-vessels", count=30, size=48, normalise="half"))


def painter(classes: int = 2) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv2d(3, 8, 5, padding=2, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(8, classes, 1),
        )


def random_maps(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    masks = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    return 2 * torch.randn(shape, generator=generator), masks


@pytest.mark.parametrize("shape", [(4, 2, 12, 9), (3, 4, 8, 8), (2, 3, 5, 6, 7)])
def test_dice_ce_is_monais(shape: tuple[int, ...]) -> None:
    losses = pytest.importorskip("monai.losses")
    maps, masks = random_maps(*shape)
    masks[0] = 0  # an image without any class
    theirs = losses.DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)(maps, masks.unsqueeze(1))
    assert dice_ce_loss(maps, masks).item() == pytest.approx(theirs.item(), abs=1e-6)


def test_dice_ce_by_its_definition_under_class_weights() -> None:
    maps, masks = random_maps(3, 3, 4, 5)
    weights = np.array([0.2, 1.0, 3.0])
    expected = []
    for logits, mask in zip(maps.double().numpy(), masks.numpy(), strict=True):
        p = np.exp(logits) / np.exp(logits).sum(0)
        dices = [(2 * p[k][mask == k].sum() + 1e-5) / (p[k].sum() + (mask == k).sum() + 1e-5) for k in (1, 2)]
        pixels = [(-np.log(p[mask[y, x], y, x]), weights[mask[y, x]]) for y in range(4) for x in range(5)]
        entropy = sum(loss * weight for loss, weight in pixels) / sum(weight for _, weight in pixels)
        expected.append(1 - np.mean(dices) + entropy)
    loss = loss_for("auto", task="segmentation", classes=3, class_weights=weights)
    assert loss(maps, masks).item() == pytest.approx(np.mean(expected), abs=1e-5)
    each = [loss(maps[i : i + 1], masks[i : i + 1]).item() for i in range(3)]
    assert loss(maps, masks).item() == pytest.approx(np.mean(each), abs=1e-6), "a batch is not the mean of its images"


def test_cross_entropy_alone_is_a_choice() -> None:
    maps, masks = random_maps(2, 3, 4, 5)
    pixels = maps.movedim(1, -1).reshape(-1, 3)
    loss = loss_for("softmax", task="segmentation", classes=3)
    assert loss(maps, masks).item() == pytest.approx(nn.functional.cross_entropy(pixels, masks.reshape(-1)).item())


def test_counts_by_counting_and_monais_dice() -> None:
    maps, masks = random_maps(4, 3, 6, 7)
    masks[1] = 0
    maps[1, 0] = 50.0  # an empty mask that is found empty
    maps[2, 2] = -50.0  # a class that is there and never predicted
    counts, found = pixel_counts(maps, masks).numpy(), maps.argmax(1)
    for i in range(4):
        for k in range(3):
            tp = int(((found[i] == k) & (masks[i] == k)).sum())
            fp, fn = (int(((a[i] == k) & (b[i] != k)).sum()) for a, b in ((found, masks), (masks, found)))
            assert counts[i, k].tolist() == [tp, fp, fn]
    assert overlap(counts)[1].tolist() == [1.0, 1.0, 1.0]
    assert overlap(counts)[2, 2] == 0
    metrics = pytest.importorskip("monai.metrics")
    one_hot = [nn.functional.one_hot(m, 3).movedim(-1, 1) for m in (found, masks)]
    for name, theirs in (("dice", metrics.compute_dice), ("jaccard", metrics.compute_iou)):
        values = theirs(*one_hot, ignore_empty=False)
        np.testing.assert_allclose(overlap(counts, name), values.numpy(), atol=1e-6)
        assert mean_overlap(counts, name).value == pytest.approx(values[:, 1:].mean(0).mean().item())
        assert mean_overlap(counts, name, background=False).value == pytest.approx(values.mean().item())


def test_predictions_do_not_depend_on_the_batch_and_agree_with_the_masks(vessels: Split) -> None:
    model = painter().eval()
    counts = predict(model, vessels.test)
    assert counts.shape == (len(vessels.test), 2, 3)
    np.testing.assert_array_equal(counts, predict(model, vessels.test, batch_size=3))
    truth = vessels.test.dataset.masks()[vessels.test.indices]
    np.testing.assert_array_equal(counts[:, 1, 0] + counts[:, 1, 2], (truth == 1).sum((1, 2)))
    found = segment(model, vessels.test)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(counts[:, 1, 0], ((found == 1) & (truth == 1)).sum((1, 2)))
    np.testing.assert_array_equal(counts[:, 1, 1], ((found == 1) & (truth == 0)).sum((1, 2)))
    assert sum(len(maps) for maps, _ in maps_of(model, vessels.train, 7)) == len(vessels.train)


RECIPE = Recipe(batch_size=6, augment="fundus", monitor="dice", validate_every=2, class_weights=(0.5, 2.0))


def run(split: Split, folder: Path | None, most: int = 99, recipe: Recipe = RECIPE) -> tuple[list[Epoch], nn.Module]:
    model, epochs = painter(), []
    for epoch in fit(model, split, recipe, steps=8, seed=4, checkpoint_dir=folder, device="cpu"):
        epochs.append(dataclasses.replace(epoch, seconds=0.0, images_per_second=0.0))
        if len(epochs) == most:
            break
    return epochs, model


def test_a_training_repeats_and_resumes_bit_for_bit(vessels: Split, tmp_path: Path) -> None:
    whole, model = run(vessels, None)
    assert len(whole) == 4
    run(vessels, tmp_path, most=2)
    resumed, again = run(vessels, tmp_path)
    assert resumed == whole
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert set(whole[0].validation) == {"loss", "dice", "jaccard", "dice/vessel", "jaccard/vessel"}
    best = max(epoch.validation["dice"] for epoch in whole)
    assert mean_overlap(predict(model, vessels.val)).value == pytest.approx(best)  # the best weights are left
    assert "dice" in str(whole[0])


def test_vessels_are_learned_and_the_default_recipe_monitors_dice(vessels: Split) -> None:
    recipe = Recipe(batch_size=8, monitor="dice", class_weights=(0.5, 4.0))
    epochs = list(fit(painter(), vessels, recipe, steps=60, learning_rate=0.03, device="cpu"))
    assert epochs[-1].validation["loss"] < epochs[0].validation["loss"]
    assert max(epoch.validation["dice"] for epoch in epochs) > 0.1  # naming every pixel a vessel gives 0.02
    default = next(iter(fit(painter(), vessels, steps=1, device="cpu")))
    assert "dice" in default.validation


def test_moved_masks_are_those_of_the_images(vessels: Split) -> None:
    from transfuse.training.batches import make_batches

    batches = make_batches(vessels.train, RECIPE, painter(), seed=0)
    positions = np.arange(6)
    images, masks = batches.drawn(positions, step=3)
    torch.testing.assert_close(images, batches.images(positions, step=3), rtol=0, atol=0)
    assert masks.shape == (6, 48, 48)
    assert not torch.equal(masks, vessels.train.truth(positions))
    plain = make_batches(vessels.train, dataclasses.replace(RECIPE, augment="none"), painter(), seed=0)
    torch.testing.assert_close(plain.drawn(positions, step=3)[1], vessels.train.truth(positions), rtol=0, atol=0)


def test_what_does_not_go_with_masks_is_refused(vessels: Split, split: Split, network: object) -> None:
    def starts(model: nn.Module, data: Split, **changes: object) -> None:
        recipe = Recipe(**{"batch_size": 6, "monitor": "dice", **changes})  # type: ignore[arg-type]
        next(iter(fit(model, data, recipe, steps=2, device="cpu")))

    with pytest.raises(TrainingError, match=r"has shape \(6, 2\); expected \(6, 2, 48, 48\), a map .*unet_resnet18"):
        starts(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), vessels)
    with pytest.raises(TrainingError, match=r"expected \(6, 3\), one logit a class; a network of maps is for data"):
        starts(nn.Conv2d(1, 3, 1), split, monitor="auroc")
    with pytest.raises(TrainingError, match="the monitor 'auroc' cannot be measured here, as the data have masks"):
        starts(painter(), vessels, monitor="auroc")
    with pytest.raises(TrainingError, match="the monitor 'dice' cannot be measured here, as the data have labels"):
        starts(painter(), split)
    with pytest.raises(TrainingError, match="a function of images alone"):
        starts(painter(), vessels, augment=lambda images, generator: images)
    with pytest.raises(TrainingError, match="augmentation_bank keeps views of images and none of masks"):
        starts(painter(), vessels, augment="cxr", augmentation_bank=2)
    with pytest.raises(TrainingError, match="the crops 'ten' average outputs of images"):
        predict(painter(), vessels.val, crops="ten")
    with pytest.raises(TrainingError, match="'dice_ce' needs masks"):
        segment(painter(), split.val)
