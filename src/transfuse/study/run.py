"""One run from its spec to its record: data, network, initialisation, training, predictions. All state goes to disk."""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from transfuse.errors import DataError, StoreError, TransfuseError
from transfuse.results.store import RunRecord, Store, write_json, write_table, write_weights
from transfuse.study.events import Ended, Failed, Note, Started, Tell, Validated
from transfuse.study.expand import PlannedRun
from transfuse.study.measure import contiguous, environment, facts, history_table, recipe_of, test, total_steps
from transfuse.study.network import Network, build
from transfuse.study.sources import images_of, normalisation_note, open_data, source_weights, split_data

if TYPE_CHECKING:
    from torch import Tensor, nn

    from transfuse.data import Dataset, Split
    from transfuse.specs import RunSpec
    from transfuse.training import Epoch

CHECKPOINT = "last.ckpt"


def do_run(run: PlannedRun, tell: Tell, *, root: Path, device: str = "auto") -> None:
    """Do one run, or find that it is done; whatever goes wrong is recorded and told, never raised.

    A run that was interrupted goes on from its last checkpoint. Another process at the same run is waited for.
    """
    store = Store(root)
    folder = store.run_folder(run.run_id)
    try:
        with store.alone(
            run.run_id, lambda: tell(Note(f"{run.title}: another process is at this run; waiting for it"))
        ):
            began = time.monotonic()
            record = store.record(run.run_id) or _do(run, store, device, tell)
            tell(Ended(run.run_id, run.title, record.status, record.reason, time.monotonic() - began))
    except (BrokenPipeError, ConnectionResetError):
        raise  # nobody listens any more: the study was stopped, the run was not at fault
    except Exception as error:  # the study goes on without this run
        message = str(error) if isinstance(error, TransfuseError) else f"{type(error).__name__}: {error}"
        failure = {"title": run.title, "message": message, "traceback": traceback.format_exc()}
        try:
            write_json(folder / "failure.json", failure)
        except StoreError as second:
            message = f"{message} (and the failure could not be written down: {second})"
        tell(Failed(run.run_id, run.title, message))


def _do(run: PlannedRun, store: Store, device: str, tell: Tell) -> RunRecord:
    from transfuse.models import add_lora_, merge_lora_
    from transfuse.training import Diverged, fit

    spec, folder = run.spec, store.run_folder(run.run_id)
    began = time.monotonic()
    write_json(folder / "spec.json", {"identity": spec.identity(), "names": run.row()})
    write_json(folder / "environment.json", environment(device, spec.train.threads))
    dataset = open_data(spec.data)
    if dataset.info.fingerprint != spec.fingerprint:
        raise DataError(
            f"the data {spec.data.name!r} changed after planning (fingerprint {spec.fingerprint[:12]} then, "
            f"{dataset.info.fingerprint[:12]} now); start the study again to plan it on the data as they are"
        )
    split = split_data(spec.data, dataset)
    network = build(
        spec.model,
        spec.init,
        images_of(split),
        source=source_weights(spec, store),
        seed=spec.seed,
        batches=_training_images(split),
    )
    model, blocks = network.model, network.blocks
    outputs = ["spec.json", "environment.json", "initial.safetensors", "history.parquet"]
    write_weights(folder / "initial.safetensors", contiguous(model))
    frozen_check = _frozen_check(network, spec, split)
    if spec.init.lora is not None:
        add_lora_(model, blocks, rank=spec.init.lora, seed=spec.seed)
    again = (folder / "checkpoints" / CHECKPOINT).exists()
    tell(Started(run.run_id, run.title, total_steps(spec, split), again))
    epochs: list[Epoch] = []
    diverged = ""
    metrics: dict[str, float | None] = {}
    with _threads(spec.train.threads):
        try:
            for epoch in fit(
                model,
                split,
                epochs=spec.train.epochs,
                steps=spec.train.steps,
                recipe=recipe_of(spec, split),
                seed=spec.seed,
                head=blocks.head,
                blocks=blocks,
                anchored=network.transferred,
                checkpoint_dir=folder / "checkpoints",
                device=device,
                frozen_check=frozen_check,
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
            predictions, metrics = test(model, split, spec, device)
            write_table(folder / "predictions.parquet", predictions)
            outputs += ["best.safetensors", "predictions.parquet"]
    record = RunRecord(
        run_id=run.run_id,
        status="diverged" if diverged else "finished",
        reason=diverged or epochs[-1].stop_reason or "",
        facts=facts(spec, network, trained, dataset, split, epochs, time.monotonic() - began),
        metrics=metrics,
        notes=tuple(dict.fromkeys((*dataset.notes, *split.notes, *_weight_notes(network, spec, dataset)))),
        transfer=tuple(network.transfer.rows()),
    )
    record = store.finish(record, outputs)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return record


def _weight_notes(network: Network, spec: RunSpec, dataset: Dataset) -> list[str]:
    """What was done to make the weights fit, and what does not fit."""
    if not spec.init.uses_weights or spec.model.weights is None:
        return []
    transfer, notes = network.transfer, [normalisation_note(spec.data, dataset, spec.model.weights)]
    if transfer.first_layer:
        notes.append(f"The weights' first layer was fitted to the images by {transfer.first_layer}.")
    notes += [f"{what[:1].upper()}{what[1:]} ({name} of the weights)." for name, what in transfer.fitted[:1]]
    return [note for note in notes if note]


RECALIBRATION_IMAGES = 2048
"""At most so many training images measure the statistics of batch norms, for `norm: recalibrate`."""


def _training_images(split: Split) -> Iterator[Tensor]:
    """Training images, as they are tested: without augmentation."""
    left = RECALIBRATION_IMAGES
    for images, _ in split.train.batches(64):
        if left <= 0:
            return
        yield images[:left]
        left -= len(images)


def _frozen_check(network: Network, spec: RunSpec, split: Split) -> Callable[[nn.Module], str] | None:
    """What must not change while the rest is trained: the output of frozen blocks, or what frozen blocks hold."""
    from transfuse.models import frozen_fingerprint, prefix_fingerprint

    if spec.init.norm_statistics == "updated":
        return None
    if spec.init.tune:
        return frozen_fingerprint
    if not spec.init.freeze:
        return None
    batch, _ = next(split.val.batches(8))

    def output(model: nn.Module) -> str:
        return prefix_fingerprint(model, network.blocks, spec.init.freeze, batch.to(next(model.parameters()).device))

    return output


def _trained_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@contextmanager
def _threads(count: int) -> Iterator[None]:
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
    )
