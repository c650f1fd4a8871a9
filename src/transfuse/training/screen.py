"""The one-training screen: every truncated network ranked by one training of a network with a head at every cut.

Of a U-Net the heads are light ones in the place of its decoder (`models.mask_exits`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.data.splits import Part, Split
from transfuse.errors import BlocksError, TrainingError
from transfuse.models.blocks import Blocks
from transfuse.models.exits import Exit, Exits, exits
from transfuse.models.freeze import freeze_
from transfuse.models.mask_exits import MaskExits, mask_exits
from transfuse.models.memory_order import channels_last, takes_channels_last
from transfuse.models.weightless import example_images, run_weightless
from transfuse.training.batches import make_batches
from transfuse.training.device import evaluation_mode
from transfuse.training.history import Diverged, Epoch
from transfuse.training.loop import fit
from transfuse.training.losses import Loss, loss_for, loss_name, probabilities_of
from transfuse.training.prediction import MAPS_AT_ONCE, MAPS_OF_VOLUMES_AT_ONCE, device_of, pixel_counts
from transfuse.training.recipe import Recipe
from transfuse.training.validation import values_of, values_of_counts
from transfuse.training.windows import maps_by_windows

TRUNK = "joint"
"""Which losses train the blocks, where nothing is said."""


@dataclass(frozen=True)
class ScreenedExit:
    """What a screen found of one truncated network.

    Attributes:
        block: the name of its last block.
        depth: how many blocks it keeps.
        parameters: of the truncated network by itself, head included.
        macs: of one image through it.
        scores: class probabilities (N, C) float32 of the validation images in their order, as `predict` gives them, at
            the exit's best validation; of masks counted pixels (N, C, 3) int64.
        value: the monitored metric of these scores; `loss` where that is monitored.
        step: after how many steps that was.
        curve: the monitored value at each validation.
    """

    block: str
    depth: int
    parameters: int
    macs: int
    scores: np.ndarray = field(repr=False, compare=False)
    value: float
    step: int
    curve: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True)
class Screen:
    """What a screen found of all of them, from the shallowest to the deepest.

    Attributes:
        exits: one for each truncated network.
        monitor: the metric by which they are ranked.
        higher_is_better: whether more of it is better.
        trunk: which losses trained the blocks.
        steps: how many were taken.
        training_macs: multiply-accumulate operations of training: for each image a forward pass through the whole
            network and its heads, and twice as much again for the gradients of weights and inputs, for what lies above
            the lowest blocks that are frozen. A patch of a volume counts as a whole one.
        validation_macs: those of validation, forward passes.
        network: the network with its exits, as the training left it: the weights of the best validation, where
            the mean over exits was monitored ("top": that of the deepest).
    """

    exits: tuple[ScreenedExit, ...]
    monitor: str
    higher_is_better: bool
    trunk: str
    steps: int
    training_macs: int
    validation_macs: int
    network: Exits | MaskExits = field(repr=False, compare=False)

    @property
    def ranked(self) -> tuple[ScreenedExit, ...]:
        """The exits from the best to the worst by their monitored value; of equals the smaller network is first."""
        sign = -1 if self.higher_is_better else 1
        return tuple(sorted(self.exits, key=lambda one: (sign * one.value, one.parameters)))


def screen(
    model: nn.Module,
    blocks: Blocks,
    split: Split,
    recipe: Recipe | None = None,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    depths: Sequence[int | str] | None = None,
    trunk: str = TRUNK,
    pool: str = "average",
    head: str = "linear",
    hidden: int | None = None,
    anchored: Collection[str] | None = None,
    seed: int = 0,
    checkpoint_dir: str | Path | None = None,
    device: str = "auto",
    watch: Callable[[Epoch], None] | None = None,
) -> Screen:
    """Rank the truncated networks of `model` by one training with a head at every cut; reads no test data.

    The network of `models.exits` is trained as `fit` trains: each head by its own loss, and the blocks as `trunk`
    says. With one exit that is the ordinary fine-tuning of that truncated network, bit for bit; with "top" the deepest
    network is fine-tuned as if it were alone (unless gradients are clipped, which is by the norm of all of them). A
    plateau, early stopping and `network` follow the mean of the monitored value over exits, with "top" that of the
    deepest.

    Each exit is reported at its own best validation, as a fine-tuning of its own would be. So its value is the best of
    several, too good as an estimate, and the more so the fewer the validation images and the more the validations.
    That is the same for all candidates but for how much their curves move, so compare exits with each other, never with
    a number from elsewhere, and measure the chosen network anew, on test data, after a training of its own.

    Of a U-Net, whose data have masks, the heads are those of `models.mask_exits`, which read the encoder's stages up to
    their cut; the decoder is not trained. What is said of one exit and of "top" above is true of classifiers.

    Args:
        model: the network before it is cut, as initialised; it stays as it is. What is frozen in it stays frozen.
        blocks: its blocks.
        split: its `train` and `val` parts are read.
        recipe, steps, epochs, learning_rate, checkpoint_dir, device: as in `fit`.
        depths: exits after these blocks only; None: every cut point and the whole network.
        trunk: "joint", "top" or "frozen" (heads only, so a linear probe at every cut), see `exits`. In
            `benchmarks/screen_trunk.py`, one seed of two designs, "joint" ordered the cuts most nearly as fine-tuning
            each of them did (Kendall's tau-b 0.60 and 0.33; "top" 0.20 and 0.20, "frozen" 0.00 and 0.14) when it took
            as many steps as one fine-tuning, and no longer with half as many (0.40 and 0.05).
        pool, head, hidden: what is above each cut, as in `truncate`; not of a U-Net.
        anchored: names in `model` of the transferred parameters, for a recipe with `l2_sp`.
        seed: of the heads, and of the order, augmentation and dropout.
        watch: is given each epoch, whose `validation` holds `<monitor>/<block>` for every exit.

    Raises:
        BlocksError: a network that cannot be cut, an unknown trunk or depth, a `pool` or `head` for a U-Net.
        TrainingError: as `fit`; a class that the monitored metric needs and the validation part lacks.
        Diverged: a TrainingError; the loss or an output of an exit, which is named, is not finite.

    ::

        found = screen(model, blocks_of(model, "block"), split, steps=200)
        print([exit.block for exit in found.ranked], found.training_macs)
    """
    info, size = split.train.dataset.info, split.train.dataset.size
    masks = info.task == "segmentation"
    if recipe is None:
        recipe = Recipe(monitor="dice" if masks else "auroc")
    how: dict[str, Any] = {"depths": depths, "trunk": trunk, "image_size": size, "seed": seed}
    above: dict[str, Any] = {"pool": pool, "head": head, "hidden": hidden}
    network: Exits | MaskExits
    if masks:
        if given := [f"{name}={value!r}" for name, value in above.items() if value not in ("average", "linear", None)]:
            raise BlocksError(f"{given[0]}: the heads of a U-Net's screen are of one kind; leave pool and head out.")
        network = mask_exits(model, blocks, len(info.classes), **how)
    else:
        network = exits(model, blocks, len(info.classes), **how, **above)
    if trunk == "frozen":
        freeze_(network, network.blocks, "all")
    macs, learning_macs = _macs(network, size)
    loss = loss_for(recipe.loss, task=info.task, classes=len(info.classes), class_weights=recipe.class_weights)
    objective = _EveryExit(network.exits, trunk, split.val, recipe, loss)
    seen: list[Epoch] = []
    try:
        for epoch in fit(
            network,
            split,
            recipe,
            steps=steps,
            epochs=epochs,
            learning_rate=learning_rate,
            blocks=network.blocks,
            anchored=None if anchored is None else _names(model, network, anchored),
            seed=seed,
            checkpoint_dir=checkpoint_dir,
            device=device,
            objective=objective,
        ):
            seen.append(epoch)
            if watch is not None:
                watch(epoch)
    except Diverged as problem:
        raise objective.named(problem) from problem
    return Screen(
        exits=tuple(objective.found(number, seen) for number in range(len(network.exits))),
        monitor=recipe.monitor,
        higher_is_better=recipe.higher_is_better,
        trunk=trunk,
        steps=seen[-1].step,
        training_macs=_images(split.train, recipe, network, seen[-1].step) * (macs + 2 * learning_macs),
        validation_macs=len(seen) * len(split.val) * macs,
        network=network,
    )


class _Measured(NamedTuple):
    """What a validation measured of an exit, and its scores."""

    values: dict[str, float]
    scores: Tensor


class _InChannels(nn.Module):
    """Gives maps (N, exits, C, ...) of a network as (N, exits * C, ...)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.network(images)
        return maps.flatten(1, 2)


class _EveryExit:
    """The `Objective` of a screen: the losses of all exits, and the scores of each at its best validation."""

    def __init__(self, found: Sequence[Exit], trunk: str, part: Part, recipe: Recipe, loss: Loss) -> None:
        self.exits, self.trunk, self.part, self.recipe, self._loss = found, trunk, part, recipe, loss
        self.best: list[float] = []
        self.scores: list[Tensor] = []
        self.losses: deque[Tensor] = deque(maxlen=2)  # of the last steps: `fit` reads a loss one step late
        self.failed: list[str] = []

    @property
    def name(self) -> str:
        return f"{self.trunk} trunk, exits {', '.join(f'{one.name} ({one.depth})' for one in self.exits)}"

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The sum over exits of their losses, for logits (N, exits, C), or maps (N, exits, C, ...)."""
        each = torch.stack([self._loss(logits, targets) for logits in output.unbind(1)])
        self.losses.append(each.detach())
        return each.sum()

    def validate(self, model: nn.Module) -> dict[str, float] | None:
        """The mean over exits, with "top" the deepest exit's, of what a validation measures; each exit's monitor."""
        measured = self._of_masks(model) if self.part.dataset.info.task == "segmentation" else self._of_classes(model)
        if measured is None:
            return None
        monitor, sign = self.recipe.monitor, 1 if self.recipe.higher_is_better else -1
        each = [values for values, _ in measured]
        for number, (values, scores) in enumerate(measured):
            value = values[monitor]
            if number == len(self.best):  # the first validation
                self.best.append(value)
                self.scores.append(scores)
            elif sign * value > sign * self.best[number] or math.isnan(self.best[number]):
                self.best[number], self.scores[number] = value, scores
        counted = each[-1:] if self.trunk == "top" else each
        names = [name for name in each[0] if "/" not in name]
        found = {name: sum(values[name] for values in counted) / len(counted) for name in names}
        own = {f"{monitor}/{one.name}": values[monitor] for one, values in zip(self.exits, each, strict=True)}
        return found | own

    def state_dict(self) -> dict[str, Any]:
        return {"best": list(self.best), "scores": list(self.scores)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.scores = list(state["best"]), list(state["scores"])

    def found(self, number: int, epochs: Sequence[Epoch]) -> ScreenedExit:
        """What there is of an exit at the end."""
        one = self.exits[number]
        curve = tuple(epoch.validation[f"{self.recipe.monitor}/{one.name}"] for epoch in epochs)
        value = self.best[number]
        step = next((epoch.step for epoch, other in zip(epochs, curve, strict=True) if other == value), epochs[0].step)
        return ScreenedExit(
            one.name, one.depth, one.parameters, one.macs, self.scores[number].numpy(), value, step, curve
        )  # fmt: skip

    def named(self, problem: Diverged) -> Diverged:
        """The same error, with the exits that it came from."""
        names = self.failed
        for losses in self.losses:
            bad = (~torch.isfinite(losses)).tolist()
            names = names or [one.name for one, is_bad in zip(self.exits, bad, strict=True) if is_bad]
        what = f"{problem.what} (exit {', '.join(map(repr, names))})"
        last_good = (problem.last_good_step, problem.last_good_loss)
        return Diverged(what, problem.step, problem.epoch, problem.learning_rate, last_good)

    def _of_classes(self, model: nn.Module) -> list[_Measured] | None:
        """Of each exit what a validation measures, and class probabilities; None where an output is not finite."""
        logits = torch.cat([one for one, _ in self._logits(model, min(256, 4 * self.recipe.batch_size))])
        if not self._finite(logits):
            return None
        head = loss_name(self.recipe.loss, self.part.dataset.info.task)
        return [
            _Measured(values_of(one, self.part, self._loss, self.recipe), probabilities_of(one, head))
            for one in logits.unbind(1)
        ]

    def _of_masks(self, model: nn.Module) -> list[_Measured] | None:
        """The same with counted pixels, batch by batch: maps of all exits and images at once would fill the memory."""
        most = MAPS_OF_VOLUMES_AT_ONCE if self.part.dataset.info.spatial_dims == 3 else MAPS_AT_ONCE
        losses, counts = [0.0] * len(self.exits), []
        for maps, masks in self._logits(model, min(most, 4 * self.recipe.batch_size)):
            if not self._finite(maps):
                return None
            for number, one in enumerate(maps.unbind(1)):
                losses[number] += float(self._loss(one, masks)) * len(maps)  # of a batch it is the mean over images
            counts.append(torch.stack([pixel_counts(one, masks) for one in maps.unbind(1)]))
        together = torch.cat(counts, dim=1)
        return [
            _Measured(values_of_counts(loss / len(self.part), one.numpy(), self.part), one)
            for loss, one in zip(losses, together, strict=True)
        ]

    def _finite(self, logits: Tensor) -> bool:
        """Whether logits (N, exits, ...) are finite; keeps the names of the exits whose are not."""
        finite = torch.isfinite(logits).transpose(0, 1).flatten(1).all(dim=1)
        self.failed = [one.name for one, fine in zip(self.exits, finite.tolist(), strict=True) if not fine]
        return not self.failed

    def _logits(self, model: nn.Module, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (n, exits, C, ...) float32 on the CPU and the truth, in the batches of an ordinary validation."""
        device = device_of(model)
        with evaluation_mode(model):
            for images, truth in self.part.batches(size):
                placed = images.to(device)
                ordered = channels_last(placed) if takes_channels_last(model, placed) else placed
                yield self._seen(model, ordered).float().cpu(), truth

    def _seen(self, model: nn.Module, images: Tensor) -> Tensor:
        """Of a network of patches by windows, for which the maps of all exits are channels."""
        if self.recipe.patches is None:
            found: Tensor = model(images)
            return found
        maps = maps_by_windows(_InChannels(model), images, self.recipe.patches)
        return maps.unflatten(1, (len(self.exits), -1))


def _names(model: nn.Module, network: Exits | MaskExits, anchored: Collection[str]) -> list[str]:
    known = model.state_dict().keys()
    if unknown := [name for name in anchored if name not in known]:
        raise TrainingError(
            f"the network has no parameter {unknown[0]!r} to draw back (anchored): names are those before it is cut"
        )
    return [key for name in anchored for key in network.names_of(name)]


def _macs(network: Exits | MaskExits, image_size: int) -> tuple[int, int]:
    """MACs of one image, in all and above the lowest blocks, in which nothing is trained."""
    from torch.utils.flop_counter import FlopCounterMode

    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    learning = next((i for i, block in enumerate(network.blocks) if any(map(block.owns, trained))), len(network.blocks))
    images = example_images(network, image_size)[:1]
    with FlopCounterMode(display=False) as counter:
        run_weightless(network, images)
    by_module = counter.get_flop_counts()
    frozen = sum(
        sum(by_module.get(f"{type(network).__name__}.{path}", {}).values())
        for block in network.blocks[:learning]
        for path in block.paths
    )
    total = counter.get_total_flops()
    return total // 2, (total - frozen) // 2


def _images(part: Part, recipe: Recipe, network: Exits | MaskExits, step: int) -> int:
    """How many images so many steps have seen."""
    batches = make_batches(part, recipe, network, seed=0)
    epoch = min(len(part), batches.steps_per_epoch * recipe.batch_size)
    whole, rest = divmod(step, batches.steps_per_epoch)
    return whole * epoch + rest * recipe.batch_size
