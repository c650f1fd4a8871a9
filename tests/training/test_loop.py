from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import state as accelerate_state
from torch import nn
from torch.nn import functional as F

from transfuse import metrics
from transfuse.data import AUGMENTATIONS, Dataset, Part, Split, class_weights, open_dataset, split_by_patient
from transfuse.errors import TrainingError
from transfuse.models import blocks_of, create_model, freeze_, prefix_fingerprint
from transfuse.training import Diverged, Optimizer, Recipe, Schedule, Stopping, fit, predict
from transfuse.training.batches import AUGMENTATION, DROPOUT, ORDER, step_seed

Network = Callable[..., nn.Module]


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


def test_a_simple_call_learns(network: Network, split: Split) -> None:
    model = network()
    epochs = list(fit(model, split, steps=30, learning_rate=1e-2))
    assert [epoch.step for epoch in epochs] == list(range(2, 31, 2))
    assert epochs[-1].stop_reason == "reached 30 steps"
    assert epochs[0].validation["auroc"] < max(epoch.validation["auroc"] for epoch in epochs)
    assert max(epoch.validation["auroc"] for epoch in epochs) > 0.95
    assert epochs[-1].train_loss < 0.6 * epochs[0].train_loss
    assert set(epochs[0].validation) == {"loss", "auroc", "auroc/0", "auroc/1", "auroc/2"}
    assert all(epoch.images_per_second > 0 for epoch in epochs)
    assert [epoch.seconds for epoch in epochs] == sorted(epoch.seconds for epoch in epochs)


def test_an_epoch_is_a_loop_that_anybody_would_write(network: Network, split: Split) -> None:
    seed, size = 5, 24
    ours, theirs = network(), network().to(memory_format=torch.channels_last)
    recipe = Recipe(
        batch_size=size, augment="fundus", optimizer=Optimizer(name="sgd", learning_rate=0.1, weight_decay=1e-4)
    )
    (epoch,) = fit(ours, split, recipe, epochs=1, seed=seed)

    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    targets = torch.from_numpy(split.train.targets.copy())
    order = np.random.default_rng((ORDER, 0, 0, seed)).permutation(len(split.train))
    losses = []
    theirs.train()
    with torch.random.fork_rng(devices=[]):
        for step, start in enumerate(range(0, len(order), size)):
            positions = order[start : start + size]
            generator = torch.Generator().manual_seed(step_seed(seed, AUGMENTATION, step))
            images = AUGMENTATIONS["fundus"](split.train.tensors(positions), generator)
            torch.manual_seed(step_seed(seed, DROPOUT, step))
            optimizer.zero_grad()
            normalised = split.train.normalise(images).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(theirs(normalised), targets[positions])
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * len(positions))
    assert len(losses) == 3
    assert len(split.train) % size  # so that the last batch is a smaller one
    assert_same(weights_of(ours), weights_of(theirs))
    assert epoch.train_loss == pytest.approx(sum(losses) / len(order), rel=1e-12)


def test_the_same_call_gives_the_same_bits_and_another_seed_does_not(network: Network, split: Split) -> None:
    ended = []
    for seed in (1, 1, 2):
        model = network()
        list(fit(model, split, Recipe(augment="fundus"), steps=6, seed=seed))
        ended.append(weights_of(model))
        torch.rand(3)  # what others draw changes nothing
    assert_same(ended[0], ended[1])
    assert differ(ended[0], ended[2])


def test_how_often_is_validated_changes_nothing(network: Network, split: Split) -> None:
    ended = []
    for every in (1, 0.5, 4.0):
        model = network()
        for epoch in fit(model, split, Recipe(validate_every=every, augment="fundus"), epochs=4):
            if epoch.stop_reason:
                ended.append(weights_of(model))
    assert_same(ended[0], ended[1])
    assert_same(ended[0], ended[2])


def test_globals_and_modes_are_the_callers_at_each_yield(network: Network, split: Split) -> None:
    model, undisturbed = network(), network()
    model[5].eval()
    modes = [module.training for module in model.modules()]
    states = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    with torch.no_grad():
        for _ in fit(model, split, epochs=3):
            assert [module.training for module in model.modules()] == modes
            assert not torch.is_grad_enabled()
            assert torch.equal(torch.get_rng_state(), states[0])
            predict(model, split.test)
            model.eval()
            torch.rand(10)
            model.train()
            model[5].eval()
            torch.set_rng_state(states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
    kinds = (accelerate_state.PartialState, accelerate_state.AcceleratorState, accelerate_state.GradientState)
    assert all(kind._shared_state == {} for kind in kinds)
    list(fit(undisturbed, split, epochs=3))
    assert_same(weights_of(model), weights_of(undisturbed))


def test_two_trainings_at_a_time_do_not_meet(network: Network, split: Split) -> None:
    plain, brain, alone = network(), network(), network()
    for _ in zip(fit(plain, split, epochs=2), fit(brain, split, Recipe(precision="bf16"), epochs=2), strict=True):
        pass
    list(fit(alone, split, epochs=2))
    assert_same(weights_of(plain), weights_of(alone))
    assert differ(weights_of(plain), weights_of(brain))


def test_the_network_ends_with_its_best_weights(network: Network, split: Split) -> None:
    model = network()
    seen, epochs = {}, []
    for epoch in fit(model, split, Recipe(validate_every=1, monitor="accuracy"), steps=12, learning_rate=0.05):
        epochs.append(epoch)
        seen[epoch.step] = weights_of(model)
    best = [epoch for epoch in epochs if epoch.is_best][-1]
    assert best.validation["accuracy"] == max(epoch.validation["accuracy"] for epoch in epochs)
    assert best.step < 12, "pick settings whose best is not the last"
    assert_same(weights_of(model), seen[best.step])
    scores = predict(model, split.val)
    assert metrics.evaluate("accuracy", split.val.targets, scores).value == best.validation["accuracy"]
    assert F.nll_loss(torch.from_numpy(scores).log(), torch.from_numpy(split.val.targets)).item() == pytest.approx(
        best.validation["loss"], abs=1e-6
    )


def test_break_ends_with_the_best_weights_too(network: Network, split: Split) -> None:
    model = network()
    best: dict[str, torch.Tensor] = {}
    for epoch in fit(model, split, Recipe(validate_every=1, monitor="accuracy"), steps=50, learning_rate=0.05):
        if epoch.is_best:
            best = weights_of(model)
        elif epoch.step > 3:
            assert differ(weights_of(model), best)
            break
    assert_same(weights_of(model), best)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_plateau_early_stopping_and_a_least_rate(network: Network, split: Split) -> None:
    plateau = Schedule(name="plateau", factor=0.5, patience=0)
    slow = Recipe(schedule=plateau, monitor="accuracy", stopping=Stopping(min_learning_rate=2e-9))
    epochs = list(fit(network(), split, slow, epochs=20, learning_rate=1e-8))
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx([1e-8, 1e-8, 5e-9, 2.5e-9])
    assert epochs[-1].stop_reason == "the learning rate 1.25e-09 fell below 2e-09"
    patient = Recipe(monitor="accuracy", stopping=Stopping(patience=3))
    epochs = list(fit(network(), split, patient, epochs=20, learning_rate=1e-9))
    assert len(epochs) == 4
    assert epochs[-1].stop_reason == "no better accuracy for 3 validations"


def test_the_head_and_the_rest_move_at_their_rates(network: Network, split: Split) -> None:
    model = network()
    before = weights_of(model)
    recipe = Recipe(optimizer=Optimizer(learning_rate=1e-6, head_learning_rate=1e-3))
    list(fit(model, split, recipe, steps=1, head=["6"]))
    # Adam's first step is the rate itself for every weight with a gradient
    moved = {name: (weights_of(model)[name] - before[name]).abs().max().item() for name in ("0.weight", "6.weight")}
    assert moved == pytest.approx({"0.weight": 1e-6, "6.weight": 1e-3}, rel=0.05)


def test_frozen_is_frozen(split: Split) -> None:
    model = create_model("resnet10t", classes=3, channels=1)
    blocks = blocks_of(model)
    freeze_(model, blocks, 2)
    batch = split.test.normalise(split.test.tensors(np.arange(4)))
    before = weights_of(model)
    list(fit(model, split, steps=3, frozen_check=lambda model: prefix_fingerprint(model, blocks, 2, batch)))
    moved = {name for name, tensor in weights_of(model).items() if not torch.equal(tensor, before[name])}
    assert moved
    assert not {name for name in moved if any(block.owns(name) for block in blocks[:2])}
    assert {name for name in before if blocks[2].owns(name)} <= moved


def test_what_was_frozen_by_halves_is_found(network: Network, split: Split) -> None:
    model = network()
    model[:2].requires_grad_(False)  # the batch-norm statistics move

    def prefix(model: nn.Module) -> torch.Tensor:
        return model[1].running_mean.clone()

    with pytest.raises(
        TrainingError, match=r"frozen part of the network moved before step 2: .*Freeze with freeze_\(\)"
    ):
        list(fit(model, split, epochs=1, frozen_check=prefix))


def test_a_training_that_diverges_leaves_the_best_weights(network: Network, split: Split) -> None:
    model = network()
    seen: dict[int, dict[str, torch.Tensor]] = {}
    schedule = Schedule(warmup=4, warmup_start=1e-6)  # the rate of step 1; that of step 2 is 2.5e29
    recipe = Recipe(optimizer=Optimizer(name="sgd", learning_rate=1e30), validate_every=1, schedule=schedule)

    def train() -> None:
        for epoch in fit(model, split, recipe, epochs=5):
            seen[epoch.step] = weights_of(model)

    with pytest.raises(
        Diverged, match=r"the last finite loss was .* at step [12]\. Lower the learning rate, warm it up"
    ):
        train()
    assert list(seen) == [1]
    assert_same(weights_of(model), seen[1])


def test_a_loss_that_is_no_number_names_its_step(network: Network, split: Split) -> None:
    calls = []

    def spoil(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        calls.append(1)
        return images * math.nan if len(calls) == 3 else images

    model = network()
    with pytest.raises(
        Diverged, match=r"the training loss is nan at step 3 \(epoch 0\.75, learning rate 0\.002\)"
    ) as e:
        list(fit(model, split, Recipe(augment=spoil, batch_size=16), epochs=3, learning_rate=2e-3))
    assert (e.value.step, e.value.last_good_step, e.value.epoch, e.value.learning_rate) == (3, 2, 0.75, 2e-3)


def test_an_output_that_is_no_number_in_validation_stops(network: Network, split: Split) -> None:
    class Trap(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if self.training else x * math.inf

    model = nn.Sequential(network(), Trap())
    with pytest.raises(Diverged, match="an output for the validation part is not finite at step 2"):
        list(fit(model, split, epochs=1))


def test_clipping_shortens_the_step(network: Network, split: Split) -> None:
    lengths = []
    for clip_norm in (None, 1e-3):
        model = network()
        before = weights_of(model)
        optimizer = Optimizer(name="sgd", learning_rate=1.0, momentum=0, clip_norm=clip_norm)
        list(fit(model, split, Recipe(optimizer=optimizer), steps=1))
        moved = [(p - before[name]).square().sum() for name, p in model.named_parameters()]
        lengths.append(sum(moved).sqrt().item())
    assert lengths[1] == pytest.approx(1e-3, rel=0.01)
    assert lengths[0] > 0.1


def test_class_weights_pull(network: Network, split: Split) -> None:
    rare = class_weights(split.train.targets, "multiclass", ("0", "1", "2"))
    shares = []
    for weights in (None, tuple(rare * [1, 1, 50])):
        model = network()
        list(fit(model, split, Recipe(class_weights=weights), steps=8, learning_rate=1e-2))
        shares.append(predict(model, split.test)[:, 2].mean())
    assert shares[1] > shares[0] + 0.2


def test_multilabel_with_missing_labels(network: Network, multilabel_split: Split) -> None:
    model = network(classes=2)
    epochs = list(fit(model, multilabel_split, steps=40, learning_rate=1e-2))
    names = multilabel_split.train.dataset.info.classes
    assert list(epochs[0].validation) == ["loss", "auroc", *(f"auroc/{name}" for name in names)]
    assert all(math.isfinite(epoch.train_loss) for epoch in epochs)
    assert max(epoch.validation["auroc"] for epoch in epochs) > 0.9


def test_grades_by_sigmoids_and_the_referable_auroc(network: Network, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(80) % 5
    images = (rng.integers(0, 100, (80, 16, 16)) + labels[:, None, None] * 30).astype(np.uint8)
    np.savez(tmp_path / "grades.npz", train_images=images, train_labels=labels[:, None])
    split = split_by_patient(open_dataset(str(tmp_path / "grades.npz"), size=16))
    recipe = Recipe(loss="sigmoid", monitor="referable_auroc")
    model = network(classes=5)
    epochs = list(fit(model, split, recipe, steps=20, learning_rate=1e-2))
    best = max(epoch.validation["referable_auroc"] for epoch in epochs)
    assert best > 0.9
    scores = predict(model, split.val, probabilities="sigmoid")
    assert metrics.evaluate("referable_auroc", split.val.targets, scores).value == pytest.approx(best)


def test_a_single_last_image_is_left_out_for_batch_norm_only(network: Network, blobs: Dataset, split: Split) -> None:
    odd = Split(Part(blobs, split.train.indices[:33]), split.val, split.test)
    (epoch,) = fit(network(), odd, epochs=1)
    assert epoch.step == 1
    (epoch,) = fit(network(norm=False), odd, epochs=1)
    assert epoch.step == 2


def test_an_undefined_class_is_nan_and_not_nothing(network: Network, blobs: Dataset, split: Split) -> None:
    two = split.val.indices[blobs.targets[split.val.indices] != 2]
    (epoch,) = fit(network(), Split(split.train, Part(blobs, two), split.test), steps=1)
    assert math.isnan(epoch.validation["auroc/2"])
    assert epoch.validation["auroc"] == pytest.approx((epoch.validation["auroc/0"] + epoch.validation["auroc/1"]) / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"the length of the training is neither; expected either steps or epochs: fit\(\.\.\., steps=500\)"),
        ({"steps": 5, "epochs": 1}, "the length of the training is steps=5 and epochs=1; expected either"),
        ({"steps": 0}, "steps is 0; expected a whole number above 0"),
        ({"steps": 1.5}, "steps is 1.5; expected a whole number above 0"),
        ({"epochs": -1}, "epochs is -1; expected a number above 0"),
        ({"steps": 1, "learning_rate": -0.1}, "learning_rate is -0.1; expected a positive number"),
        ({"steps": 1, "seed": -1}, "seed is -1; expected 0 or more"),
        ({"steps": 1, "device": "gpu"}, "the device 'gpu' is unknown"),
        ({"steps": 1, "recipe": Recipe(class_weights=(1.0, 2.0))}, "class_weights has shape"),
        ({"steps": 1, "recipe": Recipe(augment="x-ray")}, "the augmentation 'x-ray' is unknown"),
        ({"steps": 1, "recipe": Recipe(optimizer=Optimizer(head_learning_rate=1.0))}, "no head is named"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_first_step(
    network: Network, split: Split, arguments: dict, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        fit(network(), split, **arguments)  # at the call, not at the first epoch


def test_parts_that_cannot_be_used_are_refused(network: Network, blobs: Dataset, part_of: Callable) -> None:
    class Loose:  # a Split refuses empty parts itself
        def __init__(self, train: Part, val: Part) -> None:
            self.train, self.val = train, val

    with pytest.raises(TrainingError, match="the training part is empty: expected at least one image"):
        fit(network(), Loose(part_of(0), part_of(9)), steps=1)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="the validation part is empty"):
        fit(network(), Loose(part_of(9), part_of(0)), steps=1)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="holds 1 image and the network has batch norm: expected 2 or more"):
        fit(network(), Loose(part_of(1), part_of(9)), steps=1)  # type: ignore[arg-type]
    alike = Part(blobs, np.flatnonzero(blobs.targets == 1))
    message = "the monitor 'auroc' cannot be measured on the validation part: auroc is undefined for every class"
    with pytest.raises(TrainingError, match=message):
        fit(network(), Loose(part_of(9), alike), steps=1)  # type: ignore[arg-type]
    (epoch,) = fit(network(), Loose(part_of(9), alike), Recipe(monitor="loss"), steps=1)  # type: ignore[arg-type]
    assert math.isnan(epoch.validation["auroc"])


def test_a_head_of_the_wrong_size_is_refused(network: Network, split: Split) -> None:
    with pytest.raises(TrainingError, match=r"output for 32 images has shape \(32, 7\); expected \(32, 3\)"):
        list(fit(network(classes=7), split, steps=1))
