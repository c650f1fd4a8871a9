"""One run from its spec to its record: data, network, initialisation, training, predictions. All state goes to disk."""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from transfuse.errors import DataError, SpecError
from transfuse.results.store import RunRecord, Store, replacing, write_json, write_table, write_weights
from transfuse.study.attempt import attempt
from transfuse.study.events import Started, Tell, Validated
from transfuse.study.expand import PlannedRun
from transfuse.study.lengths import total_steps
from transfuse.study.measure import contiguous, environment, facts, history_table, recipe_of, test
from transfuse.study.network import Network, build
from transfuse.study.shared_features import frozen_features
from transfuse.study.snapshots import has_snapshots, snapshot_file, snapshot_steps
from transfuse.study.sources import (
    images_of,
    network_sha256,
    normalisation_note,
    open_data,
    source_normalisation_note,
    source_weights,
    split_data,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from transfuse.data import Dataset, Split
    from transfuse.specs import RunSpec
    from transfuse.training import Epoch

CHECKPOINT, BEST = "last.ckpt", "best.safetensors"


def do_run(run: PlannedRun, tell: Tell, *, root: Path, device: str = "auto") -> None:
    """Do one run, or find that it is done; whatever goes wrong is recorded and told, never raised.

    A run that was interrupted goes on from its last checkpoint. Another process at the same run is waited for. A run
    that is done but did not keep the snapshots that are asked for now is done again.
    """
    store, wanted = Store(root), run.spec.train.snapshots
    attempt(
        run,
        store,
        tell,
        lambda folder, say: _do(run, store, folder, device, say),
        enough=lambda record: has_snapshots(record, wanted),
    )


def _do(run: PlannedRun, store: Store, folder: Path, device: str, tell: Tell) -> RunRecord:
    from transfuse.models import add_lora_, merge_lora_
    from transfuse.training import Diverged, fit
    from transfuse.training.checkpoint import steps_of_checkpoint
    from transfuse.training.device import choose_device

    spec, began = run.spec, time.monotonic()
    write_json(folder / "spec.json", {"identity": spec.identity(), "names": run.row()})
    write_json(folder / "environment.json", environment(device, spec.train.threads))
    dataset = open_data(spec.data)
    if dataset.info.fingerprint != spec.fingerprint:
        raise DataError(
            f"the data {spec.data.name!r} changed after planning (fingerprint {spec.fingerprint[:12]} then, "
            f"{dataset.info.fingerprint[:12]} now); start the study again to plan it on the data as they are"
        )
    if network_sha256(spec.model, spec.data) != spec.network_sha256:
        raise SpecError(
            f"the network {spec.model.name!r} changed after planning; start the study again to plan it as it is now"
        )
    split = split_data(spec.data, dataset)
    network = build(
        spec.model,
        spec.init,
        images_of(split),
        source=source_weights(spec, store),
        seed=spec.seed,
        batches=training_images(split, spec.seed),
    )
    model, blocks = network.model, network.blocks
    outputs = ["spec.json", "environment.json", "initial.safetensors", "history.parquet"]
    write_weights(folder / "initial.safetensors", contiguous(model))
    if spec.init.lora is not None:
        add_lora_(model, blocks, rank=spec.init.lora, seed=spec.seed)
    steps_kept = snapshot_steps(spec.train.snapshots, total_steps(spec, split))
    if run.continues is not None:
        _go_on_from(store, run.continues, folder)
    missing = [step for step in steps_kept if not (folder / snapshot_file(step)).exists()]
    if missing and (steps_of_checkpoint(folder / "checkpoints") or 0) >= missing[0]:
        shutil.rmtree(folder / "checkpoints")  # of a run that did not keep them: what is behind it does not come back
    again = (folder / "checkpoints" / CHECKPOINT).exists()
    tell(Started(run.run_id, run.title, total_steps(spec, split), again))
    model.to(choose_device(device))
    epochs: list[Epoch] = []
    diverged = ""
    metrics: dict[str, float | None] = {}
    with (
        threads_of_run(spec.train.threads),
        frozen_features(network, split, spec, store.root, run.siblings) as frozen,
    ):
        try:
            for epoch in fit(
                model,
                frozen.split,
                epochs=spec.train.epochs,
                steps=spec.train.steps,
                recipe=recipe_of(spec, split),
                seed=spec.seed,
                head=blocks.head,
                blocks=blocks,
                anchored=network.drawn_back,
                checkpoint_dir=folder / "checkpoints",
                device=device,
                frozen_check=frozen.check,
                snapshots=steps_kept,
                keep=lambda step, now: write_weights(folder / snapshot_file(step), _as_before(now, spec)),
            ):
                epochs.append(epoch)
                tell(_validated(run, epoch))
        except Diverged as error:
            diverged = str(error)
        write_table(folder / "history.parquet", history_table(epochs))
        trained = _trained_parameters(model)
        if spec.init.lora is not None:
            merge_lora_(model)
        if not diverged:
            write_weights(folder / "best.safetensors", contiguous(model))
            predictions, metrics = test(model, frozen.split, spec, device)
            write_table(folder / "predictions.parquet", predictions)
            outputs += ["best.safetensors", "predictions.parquet"]
    outputs += [snapshot_file(step) for step in steps_kept if (folder / snapshot_file(step)).exists()]
    found = facts(spec, network, trained, dataset, split, epochs, time.monotonic() - began)
    record = RunRecord(
        run_id=run.run_id,
        status="diverged" if diverged else "finished",
        reason=diverged or epochs[-1].stop_reason or "",
        facts={
            **found,
            "training_equivalents": frozen.training_equivalents(found["macs"], epochs),
            "features_not_shared": frozen.why_not,
        },
        metrics=metrics,
        notes=tuple(dict.fromkeys((*dataset.notes, *split.notes, *_weight_notes(network, spec, dataset, store)))),
        transfer=tuple(network.transfer.rows()),
    )
    record = store.finish(record, outputs, folder)
    if run.role != "search":  # a longer training may go on from it
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return record


def _go_on_from(store: Store, shorter: str, folder: Path) -> None:
    """Begin with the checkpoint of a shorter run of the same training, if it is there and this one has none yet."""
    theirs, ours = store.run_folder(shorter) / "checkpoints", folder / "checkpoints"
    if (ours / CHECKPOINT).exists() or not (theirs / CHECKPOINT).exists():
        return
    try:
        ours.mkdir(exist_ok=True)
        for name in (BEST, CHECKPOINT):  # the checkpoint last, which makes use of the other
            with replacing(ours / name) as temporary:
                shutil.copyfile(theirs / name, temporary)
    except OSError:  # another study has just done with them: the training begins at its first step
        shutil.rmtree(ours, ignore_errors=True)


def _weight_notes(network: Network, spec: RunSpec, dataset: Dataset, store: Store) -> list[str]:
    """What was done to make the weights fit, and what does not fit."""
    if not spec.init.uses_weights or spec.model.weights is None:
        return []
    transfer, notes = network.transfer, [normalisation_note(spec.data, dataset, spec.model.weights)]
    if spec.source_run is not None:
        identity = json.loads((store.run_folder(spec.source_run) / "spec.json").read_text(encoding="utf-8"))["identity"]
        theirs = identity["data"]["normalise"]
        notes.append(source_normalisation_note(theirs, spec.data.normalise, f"The weights {spec.model.weights}"))
    if transfer.first_layer:
        notes.append(f"The weights' first layer was fitted to the images by {transfer.first_layer}.")
    notes += [f"{what[:1].upper()}{what[1:]} ({name} of the weights)." for name, what in transfer.fitted[:1]]
    return [note for note in notes if note]


def _as_before(model: nn.Module, spec: RunSpec) -> dict[str, Tensor]:
    """The weights of a network in training, as the network without adapters has them."""
    if spec.init.lora is None:
        return contiguous(model)
    from transfuse.models import merge_lora_

    merged = copy.deepcopy(model)
    merge_lora_(merged)
    return contiguous(merged)


RECALIBRATION_IMAGES = 2048
"""At most so many training images measure the statistics of batch norms, for `norm: recalibrate`."""


def training_images(split: Split, seed: int) -> Iterator[Tensor]:
    """Training images, as they are tested (without augmentation): a random choice, as files lie class by class."""
    part = split.train
    chosen = np.random.default_rng([seed, len(part)]).permutation(len(part))[:RECALIBRATION_IMAGES]
    for start in range(0, len(chosen), 64):
        yield part.normalise(part.tensors(chosen[start : start + 64]))


def _trained_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@contextmanager
def threads_of_run(count: int) -> Iterator[None]:
    """The number of threads decides the last bits of a sum, so a run has its own."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _validated(run: PlannedRun, epoch: Epoch) -> Validated:
    value = epoch.validation.get(run.spec.monitor, math.nan)
    return Validated(
        run_id=run.run_id,
        step=epoch.step,
        epoch=epoch.epoch,
        monitor=run.spec.monitor,
        value=None if math.isnan(value) else value,
        train_loss=epoch.train_loss,
        best=epoch.is_best,
        repeated=epoch.repeated,
    )
