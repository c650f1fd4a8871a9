"""One analysis from its plan to its record: networks and images are opened, looked at, and what is found is kept."""

from __future__ import annotations

import shutil
import time
import warnings
from pathlib import Path

from transfuse.errors import AnalysisWarning
from transfuse.results.store import RunRecord, Store, replacing, write_json, write_table, write_weights
from transfuse.study.analyses import PlannedAnalysis
from transfuse.study.attempt import attempt
from transfuse.study.events import Started, Tell
from transfuse.study.looked import Looked
from transfuse.study.run import threads_of_run
from transfuse.study.same_features import features_key, remember, same_before


def do_analysis(job: PlannedAnalysis, tell: Tell, *, root: Path, device: str = "auto") -> None:
    """Do one analysis, or find that it is done; whatever goes wrong is recorded and told, never raised."""
    store = Store(root)
    attempt(job, store.analyses, tell, lambda folder, say: _do(job, store, folder, device, say))


def _do(job: PlannedAnalysis, store: Store, folder: Path, device: str, tell: Tell) -> RunRecord:
    from transfuse.study.measurements import MEASURES

    tell(Started(job.run_id, job.title, None))
    began = time.monotonic()
    write_json(folder / "spec.json", {"identity": job.identity(), "names": job.row()})
    looked = Looked(job, store, device, folder)
    features = features_key(looked)
    before = same_before(store.analyses, features) if features is not None else None
    if before is not None:
        measured = store.analyses.run_folder(before.run_id) / "measurements.parquet"
        with replacing(folder / "measurements.parquet") as temporary:
            shutil.copyfile(measured, temporary)
        facts = {**before.facts, "total_seconds": time.monotonic() - began, "same_as": before.run_id}
        record = RunRecord(run_id=job.run_id, status="finished", facts=facts, notes=before.notes)
        return store.analyses.finish(record, ["spec.json", "measurements.parquet"], folder)
    with warnings.catch_warnings(record=True) as heard, threads_of_run(looked.spec.train.threads):
        warnings.simplefilter("always", AnalysisWarning)
        found = MEASURES[job.spec.what](looked)
    notes = [str(one.message) for one in heard if issubclass(one.category, AnalysisWarning)]
    for one in heard:
        if not issubclass(one.category, AnalysisWarning):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    write_table(folder / "measurements.parquet", found.frame())
    outputs = ["spec.json", "measurements.parquet"]
    if found.arrays:
        write_weights(folder / "arrays.safetensors", found.tensors())
        outputs.append("arrays.safetensors")
    record = RunRecord(
        run_id=job.run_id,
        status="finished",
        facts={"total_seconds": time.monotonic() - began, **found.facts},
        notes=tuple(dict.fromkeys(notes)),
    )
    if features is not None:
        remember(store.analyses, features, job.run_id)
    return store.analyses.finish(record, outputs, folder)
