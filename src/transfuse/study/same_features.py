"""Analyses that depend on what a network makes of images and on nothing else are done once for the same features."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from transfuse.errors import StoreError
from transfuse.results.store import RunRecord, Store, write_json
from transfuse.study.feature_files import FOLDER
from transfuse.study.looked import Looked, part_of
from transfuse.study.network import kind_of
from transfuse.study.sources import images_of

OF_FEATURES = ("knn",)
"""Analyses of one network whose result its features decide: seeds that start from the same weights share it."""


def features_key(looked: Looked) -> str | None:
    """What decides the result of an analysis of features; None for an analysis of another kind.

    The weights of the network, the head aside, its modules, the images, the settings, and what decides the last bits.
    """
    from transfuse.models.blocks import blocks_of, is_under
    from transfuse.training.identity import digest_of_weights

    job = looked.job
    if job.spec.what not in OF_FEATURES:
        return None
    model = looked.network(job.sides[0])
    head = blocks_of(model, job.spec.level).head
    state = {key: value for key, value in model.state_dict().items() if not any(is_under(key, path) for path in head)}
    parts = [part.indices.astype("<i8").tobytes() for part in (looked.split.train, part_of(looked))]
    identity = {key: value for key, value in job.identity().items() if key != "networks"}
    described = [
        digest_of_weights(state),
        repr(kind_of(looked.spec, images_of(looked.split))),
        looked.spec.identity()["data"],
        [hashlib.sha256(part).hexdigest() for part in parts],
        looked.spec.train.threads,
        looked.device,
        identity,
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=repr).encode()).hexdigest()[:32]


def same_before(analyses: Store, key: str) -> RunRecord | None:
    """An analysis that was done of the same features; None where there is none, or it is damaged."""
    try:
        return analyses.record(json.loads(_note(analyses, key).read_text(encoding="utf-8")))
    except (OSError, ValueError, StoreError):
        return None


def remember(analyses: Store, key: str, run_id: str) -> None:
    """Note which analysis was done of these features."""
    write_json(_note(analyses, key), run_id)


def _note(analyses: Store, key: str) -> Path:
    return analyses.root / FOLDER / f"{key}.json"
