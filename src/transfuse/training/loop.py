"""The training loop: a generator that yields once a validation."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.data.splits import Split
from transfuse.errors import TrainingError
from transfuse.models.blocks import Blocks
from transfuse.models.memory_order import channels_last, takes_channels_last
from transfuse.training import checkpoint
from transfuse.training.batches import DROPOUT, Batches, make_batches, step_seed
from transfuse.training.device import Runtime, seed_step, training_mode
from transfuse.training.history import Diverged, Epoch, History
from transfuse.training.identity import digest_of_weights, settings_of
from transfuse.training.l2_sp import anchored_parameters, draw_back
from transfuse.training.losses import Loss, loss_for
from transfuse.training.objective import Objective
from transfuse.training.optimizers import make_optimizer
from transfuse.training.prediction import check_logits, device_of, output_shape
from transfuse.training.recipe import Recipe
from transfuse.training.validation import check_validation, validate


def fit(
    model: nn.Module,
    split: Split,
    recipe: Recipe | None = None,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    head: Sequence[str] = (),
    blocks: Blocks | None = None,
    anchored: Collection[str] | None = None,
    seed: int = 0,
    checkpoint_dir: str | Path | None = None,
    device: str = "auto",
    frozen_check: Callable[[nn.Module], Any] | None = None,
    snapshots: Collection[int] = (),
    keep: Callable[[int, nn.Module], None] | None = None,
    objective: Objective | None = None,
) -> Iterator[Epoch]:
    """Train `model` on `split.train`; yields an `Epoch` at each validation on `split.val`.

    ::

        for epoch in fit(model, split, steps=500, learning_rate=1e-4):
            print(epoch)

    Stop early with `break`. When the loop ends, however it ends, `model` holds the weights with the best monitored
    value so far; inside the loop it holds the current ones, in the mode the caller gave it. Anything may be done with
    it there that does not change it (`predict`, an analysis).

    The same arguments give the same bits on a CPU with the same number of threads: order, augmentation and dropout are
    functions of (seed, epoch, step) alone, whatever else draws random numbers, and however often is validated. The
    global generators are left as they were.

    Args:
        model: maps normalised images (n, channels, size, size) to logits (n, C), C being the number of classes; for
            masks to maps of logits (n, C, size, size).
            Parameters without `requires_grad` are not trained. It is moved to `device` and stays there.
        split: its `train` and `val` parts are read, never `test`.
        recipe: optimiser, schedule, loss, augmentation, validation; default: Adam, batches of 32.
        steps, epochs: the length; one of the two.
        learning_rate: instead of the recipe's.
        head: names of the head's parameters or modules, for a recipe with a `head_learning_rate`; default: that of
            `blocks`.
        blocks: the network's blocks, for a recipe with a `layer_decay`.
        anchored: names of the parameters that L2-SP draws back to the values with which the training begins, for a
            recipe with `l2_sp`: those that were transferred. Names of buffers and of frozen parameters change nothing.
        seed: 0 or more.
        checkpoint_dir: a folder that gets `last.ckpt` and `best.safetensors` at each validation. If it holds a
            checkpoint of the same training, the training goes on from there: the epochs before it are yielded again
            from the record, and the rest are bit-identical to those of a training that was never interrupted. That of
            one that differs only in being shorter does as well, if it ended where this one validates; if not, the
            training begins anew. The model must have the weights with which that training began, or (but for L2-SP,
            which needs the first ones) those of its last or best checkpoint.
        device: `auto`, `cpu`, `cuda` or `mps`.
        frozen_check: a function of the network whose value must not change, such as the output of its frozen blocks on
            a fixed batch; called at the start and at each validation.
        snapshots, keep: after each of these steps `keep(step, model)` is called, to write the weights down; it must not
            change the network. A training that goes on from a checkpoint calls it again for the steps it repeats.
        objective: another loss and validation than the recipe's, for a network whose output is not one logit a class.

    Raises:
        TrainingError: arguments that cannot be meant, a checkpoint of another training, of a network that began with
            other weights, or a damaged one, a `frozen_check` that moved, an output that does not fit the classes.
        BlocksError: `blocks` that are not this network's, for a recipe that needs them.
        Diverged: a TrainingError; the loss or a validation output is not finite.
        StoreError: the checkpoint cannot be written (disk full); the one before is intact.
    """
    if recipe is None:
        recipe = Recipe(monitor="dice" if split.train.dataset.info.task == "segmentation" else "auroc")
    if learning_rate is not None:
        optimizer = dataclasses.replace(recipe.optimizer, learning_rate=learning_rate)
        recipe = dataclasses.replace(recipe, optimizer=optimizer)
    if seed < 0:
        raise TrainingError(f"seed is {seed}; expected 0 or more")
    batches = make_batches(split.train, recipe, model, seed=seed)
    check_validation(split.val, recipe)
    info = split.train.dataset.info
    head = tuple(head) or (() if blocks is None else blocks.head)
    drawn_back = {}
    if recipe.optimizer.l2_sp is not None:
        drawn_back = anchored_parameters(model, anchored, decay_1d=recipe.optimizer.decay_1d)
    runtime = Runtime(device, recipe.precision)
    training = _Training(
        model=model,
        split=split,
        recipe=recipe,
        batches=batches,
        history=_new_history(recipe, batches.steps_per_epoch, steps, epochs),
        loss=objective.loss
        if objective is not None
        else loss_for(recipe.loss, task=info.task, classes=len(info.classes), class_weights=recipe.class_weights),
        objective=objective,
        optimizer=make_optimizer(model, recipe.optimizer, head, blocks, anchored),
        runtime=runtime,
        drawn_back=tuple(drawn_back.values()),
        keep=dict.fromkeys(snapshots, keep) if keep is not None else {},
    )
    if checkpoint_dir is not None:
        training.folder = Path(checkpoint_dir)
        training.settings = settings_of(
            model,
            split,
            recipe,
            head=head,
            blocks=blocks,
            drawn_back=tuple(drawn_back),
            total_steps=training.history.total_steps,
            seed=seed,
            processes=runtime.processes,
        )
        if objective is not None:
            training.settings["objective"] = objective.name
    return _epochs(training, frozen_check)


def _new_history(recipe: Recipe, steps_per_epoch: int, steps: int | None, epochs: float | None) -> History:
    if (steps is None) == (epochs is None):
        given = "neither" if steps is None else f"steps={steps} and epochs={epochs}"
        raise TrainingError(
            f"the length of the training is {given}; expected either steps or epochs: fit(..., steps=500)"
        )
    name, length = ("steps", steps) if epochs is None else ("epochs", epochs)
    if length is None or not (length > 0 and math.isfinite(length)) or (epochs is None and length != int(length)):
        raise TrainingError(f"{name} is {length}; expected {'a whole' if epochs is None else 'a'} number above 0")
    total = int(length) if epochs is None else max(1, round(epochs * steps_per_epoch))
    return History(recipe, steps_per_epoch, total, length=f"{length:g} {name}")


@dataclass
class _Training:
    """One training in progress: what is fixed, and what moves with the steps."""

    model: nn.Module
    split: Split
    recipe: Recipe
    batches: Batches
    history: History
    loss: Loss
    optimizer: torch.optim.Optimizer
    runtime: Runtime
    objective: Objective | None = None
    drawn_back: tuple[nn.Parameter, ...] = ()  # by L2-SP
    keep: dict[int, Callable[[int, nn.Module], None]] = field(default_factory=dict)  # at which steps, and who
    channels_last: bool = True
    folder: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)
    initial: str = ""  # digest of the weights at the first step, where there is a folder
    best: dict[str, Tensor] = field(default_factory=dict)
    last_good: tuple[int, float] = (0, math.nan)


def _epochs(training: _Training, frozen_check: Callable[[nn.Module], Any] | None) -> Iterator[Epoch]:
    model, history = training.model, training.history
    blank = torch.zeros(1, *training.split.train.dataset.shape, device=device_of(model))
    training.channels_last = takes_channels_last(model, blank)
    module = training.runtime.wrap(model, channels_last=training.channels_last)
    frozen = None if frozen_check is None else frozen_check(model)
    if training.recipe.optimizer.l2_sp is not None:  # to the present weights, before a checkpoint brings others
        draw_back(training.optimizer, training.drawn_back, training.recipe.optimizer.l2_sp)
    try:
        _resume(training)
        yield from tuple(dataclasses.replace(epoch, repeated=True) for epoch in history.epochs)
        while history.stop_reason is None:
            epoch = _train_until(training, module, history.next_validation())
            if frozen_check is not None:
                _check_frozen(frozen, frozen_check(model), epoch.step)
            if epoch.is_best:
                training.best = _copy(model)
            _save(training, epoch)
            yield epoch
    finally:
        training.optimizer.zero_grad(set_to_none=True)
        if training.best:
            model.load_state_dict(training.best)


def _train_until(training: _Training, module: nn.Module, until: int) -> Epoch:
    """Train up to step `until` and validate; the new epoch."""
    history, batches, runtime = training.history, training.batches, training.runtime
    started, step = time.perf_counter(), history.step
    reductions = history.reductions()
    order = batches.order(step // batches.steps_per_epoch)
    images, total = 0, 0.0
    unread: tuple[int, Tensor, int] | None = None  # a loss is read one step late, so that no step waits for a GPU
    with training_mode(training.model, runtime.device):
        while step < until:
            if step % batches.steps_per_epoch == 0:
                order = batches.order(step // batches.steps_per_epoch)
            positions = batches.positions(step, order)
            loss = _step(training, module, step, positions, reductions)
            if unread is not None:
                total += _finite(training, *unread)
            unread = (step, loss, len(positions))
            images, step = images + len(positions), step + 1
            if step in training.keep and runtime.is_main:
                training.keep[step](step, training.model)
        if unread is not None:
            total += _finite(training, *unread)
    trained = time.perf_counter() - started
    values = _validated(training) if runtime.is_main else None
    values = runtime.broadcast(values)
    if values is None:
        raise _diverged(training, "an output for the validation part is not finite", step)
    return history.add(
        step=step,
        train_loss=total / images,
        learning_rate=history.learning_rate(step - 1, training.recipe.optimizer.learning_rate, reductions),
        validation=values,
        seconds=history.seconds + time.perf_counter() - started,
        images_per_second=images / trained,
    )


def _validated(training: _Training) -> dict[str, float] | None:
    if training.objective is not None:
        return training.objective.validate(training.model)
    return validate(training.model, training.split.val, training.loss, training.recipe)


def _step(training: _Training, module: nn.Module, step: int, positions: np.ndarray, reductions: int) -> Tensor:
    """One optimiser step; its loss."""
    runtime, batches, optimizer = training.runtime, training.batches, training.optimizer
    mine = runtime.share(positions)
    drawn, truth = batches.drawn(mine, step, runtime.process)
    images = runtime.to_device(drawn)
    images = channels_last(images) if training.channels_last else images
    targets = runtime.to_device(truth)
    for group in optimizer.param_groups:
        group["lr"] = training.history.learning_rate(step, group["base_rate"], reductions)
    seed_step(runtime.device, step_seed(batches.seed, DROPOUT, step, runtime.process))
    logits = runtime.forward(module, images)
    if training.objective is None:
        check_logits(logits, output_shape(batches.part, images))
    loss = training.loss(logits, targets)
    if runtime.processes > 1:  # their gradients are averaged: weigh each by its share of the batch
        loss = loss * (len(mine) * runtime.processes / len(positions))
    runtime.backward(loss)
    runtime.step(optimizer, training.recipe.optimizer.clip_norm)
    return loss.detach()


def _finite(training: _Training, step: int, loss: Tensor, images: int) -> float:
    """The loss of a step, summed over its images; raises Diverged if it is not finite."""
    value = training.runtime.mean(loss)
    if not math.isfinite(value):
        raise _diverged(training, f"the training loss is {value}", step + 1)
    training.last_good = (step + 1, value)
    return value * images


def _diverged(training: _Training, what: str, step: int) -> Diverged:
    history = training.history
    rate = history.learning_rate(step - 1, training.recipe.optimizer.learning_rate, history.reductions())
    epoch = step / history.steps_per_epoch
    return Diverged(what, step=step, epoch=epoch, learning_rate=rate, last_good=training.last_good)


def _check_frozen(before: Any, now: Any, step: int) -> None:
    same = torch.equal(before, now) if isinstance(before, Tensor) else before == now
    if not same:
        raise TrainingError(
            f"the frozen part of the network moved before step {step}: its frozen_check gives another value than at "
            "the start. Freeze with freeze_(), which also holds batch-norm statistics and dropout still"
        )


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


def _save(training: _Training, epoch: Epoch) -> None:
    if training.folder is None or not training.runtime.is_main:
        return
    state = {
        "settings": training.settings,
        "initial": training.initial,
        "epochs": training.history.as_rows(),
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "runtime": training.runtime.state_dict(),
        "last_good": list(training.last_good),
    }
    if training.objective is not None:
        state["objective"] = training.objective.state_dict()
    checkpoint.save_state(training.folder, state)
    if epoch.is_best:  # second, so that a kill between the two can be made good from the first
        checkpoint.save_weights(training.folder, training.best, step=epoch.step)


def _resume(training: _Training) -> None:
    if training.folder is None:
        return
    training.initial = here = digest_of_weights(training.model.state_dict())
    state = checkpoint.load_state(training.folder, settings=training.settings)
    if state is None:
        return
    history = training.history
    history.restore(state["epochs"])
    if checkpoint.shorter_than(state["settings"], training.settings) and not history.lengthen():
        history.restore([])
        return
    best = history.best
    weights = None
    if best is not None and best.step < history.step:
        weights = checkpoint.load_weights(training.folder, step=best.step)
    training.initial = state.get("initial", "")
    own = {training.initial}
    if not training.drawn_back:  # only the first weights can say where L2-SP draws to
        own |= {digest_of_weights(one) for one in (state["model"], weights or {})}
    if not training.runtime.broadcast(not training.initial or here in own):
        also = ", to which l2_sp draws back" if training.drawn_back else ""
        raise TrainingError(
            f"the checkpoint {training.folder / checkpoint.LAST} is of a network that began with other weights{also}, "
            "so its epochs are not those of this one. Give the network its first weights, or name another "
            "checkpoint_dir"
        )
    training.model.load_state_dict(state["model"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.runtime.load_state_dict(state["runtime"])
    training.last_good = (int(state["last_good"][0]), float(state["last_good"][1]))
    if training.objective is not None:
        training.objective.load_state_dict(state["objective"])
    if weights is not None:
        training.best = weights
    elif best is not None:
        training.best = _copy(training.model)
        if training.runtime.is_main:
            checkpoint.save_weights(training.folder, training.best, step=best.step)
