"""One training with a head at every cut: what it trains, what it finds, and that a single exit is ordinary training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfuse import metrics
from transfuse.data import Part, Split
from transfuse.errors import BlocksError, TrainingError
from transfuse.models import Blocks, blocks_of, create_model, exits, freeze_, truncate
from transfuse.models.complexity import complexity
from transfuse.models.prefix import cut_of, macs_above
from transfuse.training import Diverged, Epoch, Optimizer, Recipe, Schedule, Screen, Stopping, fit, predict, screen

# dropout, augmentation, momentum, a warm-up and a plateau: everything that has a state of its own
RECIPE = Recipe(
    optimizer=Optimizer(name="sgd", learning_rate=0.05, weight_decay=1e-4),
    schedule=Schedule(name="plateau", patience=1, factor=0.5, warmup=3, warmup_start=1e-4),
    stopping=Stopping(patience=8),
    batch_size=24,
    augment="fundus",
    monitor="accuracy",
    validate_every=2,
)


def network(classes: int = 3) -> nn.Sequential:
    """Three convolutions for grey images of 16 px, with batch norms and dropout; the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.2)),
            *(nn.Conv2d(8, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, classes)),
        )


def vit() -> nn.Module:
    return create_model("test_vit", classes=3, channels=1, image_size=16)


def parts(model: nn.Module) -> Blocks:
    return blocks_of(model, "block")


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def trained(model: nn.Module, split: Split, recipe: Recipe, **options: Any) -> list[Epoch]:
    return list(fit(model, split, recipe, epochs=5, **options))


@pytest.mark.parametrize("depth", [1, 4, "all"])
@pytest.mark.parametrize("trunk", ["joint", "top"])
def test_with_one_exit_it_is_the_fine_tuning_of_the_truncated_network(
    split: Split, depth: int | str, trunk: str
) -> None:
    model = network()
    recipe = dataclasses.replace(RECIPE, optimizer=dataclasses.replace(RECIPE.optimizer, clip_norm=1.0))
    seen: list[Epoch] = []
    found = screen(model, parts(model), split, recipe, epochs=5, depths=[depth], trunk=trunk, seed=4, watch=seen.append)
    short = truncate(model, parts(model), depth, 3, seed=4)
    epochs = trained(short, split, recipe, seed=4)
    same(found.network.network.state_dict(), short.state_dict())
    assert not found.network.tails
    (one,) = found.exits
    assert one.curve == tuple(epoch.validation["accuracy"] for epoch in epochs)
    assert (one.value, one.step) == next((e.validation["accuracy"], e.step) for e in epochs[::-1] if e.is_best)
    np.testing.assert_array_equal(one.scores, predict(short, split.val, batch_size=96))
    told = [(e.step, e.train_loss, e.learning_rate, e.is_best, e.stop_reason) for e in seen]
    assert told == [(e.step, e.train_loss, e.learning_rate, e.is_best, e.stop_reason) for e in epochs]
    assert len({epoch.learning_rate for epoch in epochs}) > 2


def test_rates_by_block_and_drawing_back_are_those_of_the_truncated_network(split: Split) -> None:
    """A transformer, whose norm stays, with a rate of its own for the head."""
    model = vit()
    blocks = parts(model)
    optimizer = Optimizer(learning_rate=1e-3, head_learning_rate=1e-2, layer_decay=0.7, l2_sp=0.5, decay_1d=False)
    recipe = Recipe(optimizer=optimizer, batch_size=32, monitor="accuracy")
    anchored = [name for name, _ in model.named_parameters() if not name.startswith("head")]
    depth = blocks.names[-3]
    found = screen(model, blocks, split, recipe, steps=4, depths=[depth], anchored=anchored)
    short = truncate(model, blocks, depth, 3)
    own = [name for name in anchored if name in short.state_dict()]
    list(fit(short, split, recipe, steps=4, blocks=blocks_of(short, "block"), anchored=own))
    same(found.network.network.state_dict(), short.state_dict())
    both = screen(model, blocks, split, recipe, steps=1, depths=[1, "all"], anchored=anchored)
    assert both.network.names_of("norm.weight") == [
        "network.norm.weight",
        *(f"tails.{number}.network.norm.weight" for number in range(len(both.exits) - 1)),
    ]
    assert both.network.names_of("head.weight") == []


def test_with_the_top_as_teacher_the_whole_network_is_fine_tuned_as_alone(split: Split) -> None:
    model = network()
    found = screen(model, parts(model), split, RECIPE, epochs=5, depths=[1, 3, "all"], trunk="top", seed=4)
    whole = truncate(model, parts(model), "all", 3, seed=4)
    epochs = trained(whole, split, RECIPE, seed=4)
    same(found.network.network.state_dict(), whole.state_dict())
    assert found.exits[-1].curve == tuple(epoch.validation["accuracy"] for epoch in epochs)
    start = exits(model, parts(model), 3, depths=[1, 3, "all"], seed=4).tails.state_dict()
    assert all(not torch.equal(tensor, start[key]) for key, tensor in found.network.tails.state_dict().items())


def gradients(trunk: str, number: int) -> set[str]:
    """What gets a gradient from the loss of one exit."""
    model = network()
    together = exits(model, parts(model), 3, trunk=trunk, depths=[1, 4, "all"])
    if trunk == "frozen":
        freeze_(together, together.blocks, "all")
    together(torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)))[:, number].square().sum().backward()
    return {name for name, p in together.named_parameters() if p.grad is not None and bool(p.grad.any())}


def test_gradients_go_where_they_should() -> None:
    first = {"tails.0.network.13.weight", "tails.0.network.13.bias"}
    top = {"network.13.weight", "network.13.bias"}
    assert gradients("joint", 0) == first | {"network.0.weight"}
    assert gradients("top", 0) == gradients("frozen", 0) == first
    assert gradients("frozen", 2) == top
    assert gradients("top", 2) == gradients("joint", 2)
    assert {"network.0.weight", "network.3.weight", "network.7.weight", *top} < gradients("top", 2)


def test_frozen_trains_heads_only(split: Split) -> None:
    for model in (network(), vit()):
        blocks = parts(model)
        freeze_(model, blocks, 2)  # something of it already, tokens and positions among it
        start = exits(model, blocks, 3, depths=[2, "all"], seed=2).state_dict()
        found = screen(model, blocks, split, RECIPE, steps=4, depths=[2, "all"], trunk="frozen", seed=2)
        heads = found.network.blocks.head
        for key, tensor in found.network.state_dict().items():
            assert torch.equal(tensor, start[key]) != key.startswith(heads), key


def test_what_is_frozen_stays_frozen(split: Split) -> None:
    model = network()
    freeze_(model, parts(model), 3)
    found = screen(model, parts(model), split, RECIPE, steps=4, depths=[4, "all"])
    state, now = model.state_dict(), found.network.network.state_dict()
    moved = {key for key in state if key in now and now[key].shape == state[key].shape
             if not torch.equal(now[key], state[key])}  # fmt: skip
    assert {key.partition(".")[0] for key in moved} == {"4", "7", "8", "13"}


@pytest.mark.parametrize("trunk", ["joint", "top", "frozen"])
def test_the_scores_are_those_of_each_exit_s_best_validation(split: Split, trunk: str) -> None:
    model = network()
    seen: list[Epoch] = []
    found = screen(model, parts(model), split, RECIPE, epochs=5, trunk=trunk, watch=seen.append)
    assert [one.block for one in found.exits] == [block.name for block in parts(model) if block.cut]
    steps = {one.step for one in found.exits}
    assert len(steps) > 1 or trunk == "frozen"
    for one in found.exits:
        assert one.scores.shape == (len(split.val), 3)
        assert one.scores.dtype == np.float32
        assert metrics.evaluate("accuracy", split.val.targets, one.scores).value == one.value == max(one.curve)
        assert one.step == seen[one.curve.index(one.value)].step
        assert one.curve == tuple(epoch.validation[f"accuracy/{one.block}"] for epoch in seen)
    expected = [np.mean([one.curve[index] for one in found.exits]) for index in range(len(seen))]
    if trunk != "top":
        assert [epoch.validation["accuracy"] for epoch in seen] == pytest.approx(expected)
    values = [one.value for one in found.ranked]
    assert values == sorted(values, reverse=True)


def test_loss_is_ranked_from_low_to_high(split: Split) -> None:
    model = network()
    recipe = dataclasses.replace(RECIPE, monitor="loss")
    found = screen(model, parts(model), split, recipe, epochs=4, depths=[1, 4, "all"])
    assert all(one.value == min(one.curve) for one in found.exits)
    assert [one.value for one in found.ranked] == sorted(one.value for one in found.exits)
    assert not found.higher_is_better


def told(found: Screen) -> tuple[Any, ...]:
    return (*found.exits, *(one.scores.tobytes() for one in found.exits), found.training_macs, found.validation_macs)


@pytest.mark.parametrize("trunk", ["joint", "top", "frozen"])
def test_an_interrupted_screen_and_a_whole_one_are_the_same(split: Split, tmp_path: Path, trunk: str) -> None:
    model = network()

    def run(folder: Path | None, most: int = 99) -> Screen:
        def stop(epoch: Epoch) -> None:
            if epoch.step >= 2 * most:
                raise KeyboardInterrupt

        options: dict[str, Any] = {"epochs": 5, "depths": [1, "all"], "trunk": trunk, "seed": 3, "watch": stop}
        return screen(model, parts(model), split, RECIPE, checkpoint_dir=folder, **options)

    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    whole = run(None)
    for most in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / str(most), most)
        torch.manual_seed(most)  # whatever else draws numbers
        resumed = run(tmp_path / str(most))
        assert told(resumed) == told(whole)
        same(resumed.network.state_dict(), whole.network.state_dict())
        assert told(run(tmp_path / str(most))) == told(whole)  # told again
    same(model.state_dict(), state)
    assert all(module.training for module in model.modules())


def test_a_checkpoint_of_another_screen_is_refused(split: Split, tmp_path: Path) -> None:
    model = network()
    screen(model, parts(model), split, RECIPE, steps=2, depths=[1, 2], checkpoint_dir=tmp_path)
    with pytest.raises(TrainingError, match=r"objective was joint trunk, exits 0 \(1\), 1 \(2\) and is now top trunk"):
        screen(model, parts(model), split, RECIPE, steps=2, depths=[1, 2], trunk="top", checkpoint_dir=tmp_path)
    short = truncate(model, parts(model), "all", 3)
    with pytest.raises(TrainingError, match=r"another training: .*objective was joint .* and is now not set"):
        list(fit(short, split, RECIPE, steps=2, checkpoint_dir=tmp_path))


def test_the_work_is_counted(split: Split) -> None:
    model = network()
    blocks = parts(model)
    short = truncate(model, blocks, "all", 3)
    whole = complexity(short, 16).macs
    depths = [1, 4, "all"]
    heads = (8 + 8) * 3
    assert len(split.train) == 64
    images = 64 + 64  # 6 steps: an epoch is 24 + 24 + 16
    found = screen(model, blocks, split, RECIPE, steps=6, depths=depths)
    assert found.steps == 6
    assert found.training_macs == images * 3 * (whole + heads)
    assert found.validation_macs == 3 * len(split.val) * (whole + heads)
    assert [one.macs for one in found.exits] == [complexity(truncate(model, blocks, d, 3), 16).macs for d in depths]
    longer = screen(model, blocks, split, RECIPE, steps=4, depths=depths)
    assert longer.training_macs == (64 + 24) * 3 * (whole + heads)
    frozen = screen(model, blocks, split, RECIPE, steps=6, depths=depths, trunk="frozen")
    assert frozen.training_macs == images * (whole + heads + 2 * (heads + 12 * 3))
    freeze_(model, blocks, 4)
    above = macs_above(short, cut_of(short, blocks_of(short, "block"), 4, image_size=16, channels=1))
    half = screen(model, blocks, split, RECIPE, steps=6, depths=depths)
    assert half.training_macs == images * (whole + heads + 2 * (above + heads))


def test_multilabel_with_missing_labels(multilabel_split: Split) -> None:
    model = network(2)
    recipe = dataclasses.replace(RECIPE, monitor="auroc", optimizer=Optimizer(learning_rate=1e-2))
    found = screen(model, parts(model), multilabel_split, recipe, epochs=8, depths=[1, "all"])
    for one in found.exits:
        value = metrics.evaluate("auroc", multilabel_split.val.targets, one.scores).value
        assert one.value == pytest.approx(value)
    assert found.exits[0].scores.sum(axis=1).std() > 0.01  # two sigmoids, no softmax
    assert found.ranked[0].value > 0.8


def test_unpooled_heads_and_an_arm_that_is_frozen() -> None:
    model = create_model("test_resnet", classes=3).eval()
    blocks, images = blocks_of(model), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    freeze_(model, blocks, "layer1")
    above: dict[str, Any] = {"pool": "none", "head": "mlp", "hidden": 7, "image_size": 32, "seed": 1}
    together = exits(model, blocks, 3, depths=["layer2", "all"], **above)
    shorts = [truncate(model, blocks, depth, 3, **above) for depth in ("layer2", "all")]
    with torch.no_grad():
        assert torch.equal(together(images), torch.stack([short(images) for short in shorts], dim=1))
    trained = {name.rpartition("network.")[2].partition(".")[0] for name, p in together.named_parameters()
               if p.requires_grad}  # fmt: skip
    assert trained == {"layer2", "layer3", "layer4", "fc"}
    modes = {name: module.training for name, module in together.train().network.named_modules()}
    assert (modes["layer1"], modes["layer2"]) == (False, True)


def test_no_cut_points() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(BlocksError, match=r"This Sequential cannot be cut anywhere at level 'stage' \(blocks: 0\), so"):
        exits(model, blocks_of(model), 3)
    assert exits(model, blocks_of(model), 3, depths=["all"])(torch.zeros(2, 1, 16, 16)).shape == (2, 1, 3)


def test_arguments(split: Split) -> None:
    model = network()
    with pytest.raises(BlocksError, match=r"Unknown trunk 'detached': .*joint, top, frozen"):
        screen(model, parts(model), split, steps=2, trunk="detached")
    with pytest.raises(BlocksError, match="depths is empty: expected one exit or more"):
        screen(model, parts(model), split, steps=2, depths=[])
    with pytest.raises(BlocksError, match="Unknown depth '15'"):
        screen(model, parts(model), split, steps=2, depths=["15"])
    with pytest.raises(TrainingError, match="expected either steps or epochs"):
        screen(model, parts(model), split)
    recipe = dataclasses.replace(RECIPE, optimizer=Optimizer(l2_sp=0.1))
    with pytest.raises(TrainingError, match=r"no parameter '0\.wight' to draw back \(anchored\)"):
        screen(model, parts(model), split, recipe, steps=2, anchored=["0.wight"])
    with pytest.raises(TrainingError, match="l2_sp is set, but not which parameters were transferred"):
        screen(model, parts(model), split, recipe, steps=2)


def test_a_class_that_the_validation_part_lacks(split: Split) -> None:
    model = network()
    part = Part(split.val.dataset, split.val.indices[split.val.targets == 1])
    one = Split(split.train, part, split.test)
    with pytest.raises(TrainingError, match="the monitor 'auroc' cannot be measured on the validation part"):
        screen(model, parts(model), one, steps=2)


@pytest.mark.parametrize("trunk", ["joint", "top"])
def test_an_exit_that_diverges_is_named(split: Split, trunk: str) -> None:
    model = network()
    with torch.no_grad():
        model[8].weight.fill_(3e38)
    message = r"the training loss is (nan|inf) \(exit '8'\) at step 1 .*Lower the learning rate"
    with pytest.raises(Diverged, match=message):
        screen(model, parts(model), split, RECIPE, steps=4, depths=[1, 4, "all"], trunk=trunk)
