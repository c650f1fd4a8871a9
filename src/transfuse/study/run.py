"""One run from its spec to its record: data, network, initialisation, training, predictions. All state goes to disk."""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transfuse.errors import DataError, StoreError, TransfuseError
from transfuse.results.store import RunRecord, Store, write_json, write_table, write_weights
from transfuse.study.events import Ended, Failed, Note, Started, Tell, Validated
from transfuse.study.expand import PlannedRun
from transfuse.study.measure import contiguous, environment, facts, history_table, recipe_of, test, total_steps
from transfuse.study.sources import normalisation_note, open_data, source_weights, split_data

if TYPE_CHECKING:
    from torch import Tensor, nn

    from transfuse.data import Dataset, Split
    from transfuse.models import Blocks
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
    from transfuse.inits import initialise_
    from transfuse.models import blocks_of, create_model, freeze_
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
    model = create_model(
        spec.model.name,
        classes=len(dataset.info.classes),
        channels=dataset.info.channels,
        image_size=dataset.size,
        padding=spec.model.padding,
    )
    blocks = blocks_of(model, spec.init.level)
    transfer = initialise_(
        model,
        blocks,
        source=source_weights(spec, store),
        depth=spec.init.depth,
        rest=spec.init.rest,
        random=spec.init.random,
        norm=spec.init.norm,
        biases=spec.init.biases,
        head=spec.init.head,
        overrides=spec.init.overrides,
        first_layer=spec.model.first_layer,
        identity_statistics=spec.model.identity_statistics,
        seed=spec.seed,
    )
    frozen_check = None
    if spec.init.freeze:
        freeze_(model, blocks, spec.init.freeze, norm_statistics=spec.init.norm_statistics)
        if spec.init.norm_statistics == "frozen":
            frozen_check = partial(_frozen_output, blocks=blocks, depth=spec.init.freeze, batch=_some_images(split))
    outputs = ["spec.json", "environment.json", "initial.safetensors", "history.parquet"]
    write_weights(folder / "initial.safetensors", contiguous(model))
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
                checkpoint_dir=folder / "checkpoints",
                device=device,
                frozen_check=frozen_check,
            ):
                epochs.append(epoch)
                tell(_validated(run, epoch))
        except Diverged as error:
            diverged = str(error)
        write_table(folder / "history.parquet", history_table(epochs))
        if not diverged:
            write_weights(folder / "best.safetensors", contiguous(model))
            predictions, metrics = test(model, split, spec, device)
            write_table(folder / "predictions.parquet", predictions)
            outputs += ["best.safetensors", "predictions.parquet"]
    record = RunRecord(
        run_id=run.run_id,
        status="diverged" if diverged else "finished",
        reason=diverged or epochs[-1].stop_reason or "",
        facts=facts(spec, model, transfer, dataset, split, epochs, time.monotonic() - began),
        metrics=metrics,
        notes=tuple(dict.fromkeys((*dataset.notes, *split.notes, *_weight_notes(spec, dataset)))),
        transfer=tuple(transfer.rows()),
    )
    record = store.finish(record, outputs)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return record


def _weight_notes(spec: RunSpec, dataset: Dataset) -> list[str]:
    note = normalisation_note(spec.data, dataset, spec.model.weights) if spec.init.needs_weights else ""
    return [note] if note else []


def _some_images(split: Split) -> Tensor:
    images, _ = next(split.val.batches(8))
    return images


def _frozen_output(model: nn.Module, *, blocks: Blocks, depth: int | str, batch: Tensor) -> str:
    """Frozen means frozen: the output of the frozen blocks on the same images, as a hash."""
    from transfuse.models import prefix_fingerprint

    return prefix_fingerprint(model, blocks, depth, batch.to(next(model.parameters()).device))


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
