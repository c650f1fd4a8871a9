"""One training, resolved, and the identity by which it is never done twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from transfuse.specs.arm import InitSpec
from transfuse.specs.data import DataSpec
from transfuse.specs.model import ModelSpec
from transfuse.specs.train import OptimizerSpec, TrainSpec

NUMERICS_VERSION = 1
"""Raised whenever a change of ours alters the numbers of a run; part of every run's identity."""

_THROUGH_FINGERPRINT = (
    *("name", "root", "count", "seed", "bad_images", "permute_labels"),
    *("image_column", "label_columns", "patient_column", "part_column", "uncertain_labels", "blank_labels"),
    *("mask_column", "mask_classes", "observer"),
)

# Settings that came after the first version. At their default they change nothing: the runs of before stay known.
_LATER = {
    "data": ("window",),
    "init": (
        *("embeddings", "gabor_scale", "tune", "truncate", "pool", "slim", "lora"),
        *("learning_rate", "head_learning_rate", "layer_decay", "l2_sp"),
    ),
    "optimizer": ("layer_decay", "l2_sp"),
    "train": ("augmentation_bank", "patch", "patch_foreground"),
}

_RECALIBRATION = 2
"""Raised when a change of ours alters the numbers of `norm: recalibrate` alone; part of the identity of such runs."""

_FROZEN = 2
"""Likewise of networks with frozen blocks, which see the images at one batch size always."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One training, resolved: everything that decides its numbers, and the names it goes by.

    `run_id` hashes what decides the numbers (data fingerprint, sha256 of the weights, source run, seed, settings,
    threads, the code of a network of one's own); names, folders and paths are left out, so the same training is
    recognised wherever it is asked for.
    """

    data: DataSpec
    model: ModelSpec
    init: InitSpec
    train: TrainSpec
    seed: int
    monitor: str
    fingerprint: str
    weights_sha256: str | None = None
    source_run: str | None = None
    network_sha256: str | None = None

    def identity(self) -> dict[str, Any]:
        """What decides the numbers, as plain values."""
        data = _plain(self.data)
        for key in _THROUGH_FINGERPRINT:
            del data[key]
        model = _plain(self.model)
        del model["weights"]  # acts through weights_sha256 or source_run
        if self.weights_sha256 is None and self.source_run is None:
            del model["first_layer"], model["identity_statistics"]
        init = _plain(self.init)
        del init["weights"]  # likewise
        train = _plain(self.train)
        del train["monitor"], train["snapshots"]  # snapshots change no number
        for name, spec, plain in (
            ("data", DataSpec, data),
            ("init", InitSpec, init),
            ("optimizer", OptimizerSpec, train["optimizer"]),
            ("train", TrainSpec, train),
        ):
            for key in _LATER[name]:
                if plain[key] == spec.__dataclass_fields__[key].default:
                    del plain[key]
        identity = {
            "numerics": NUMERICS_VERSION,
            "data": {"fingerprint": self.fingerprint, **data},
            "model": model,
            "init": init,
            "train": train,
            "seed": self.seed,
            "monitor": self.monitor,
            "weights_sha256": self.weights_sha256,
            "source_run": self.source_run,
        }
        if self.network_sha256 is not None:
            identity["network_sha256"] = self.network_sha256
        if self.init.norm == "recalibrate":
            identity["recalibration"] = _RECALIBRATION
        if self.init.freeze != 0 or self.init.tune:
            identity["frozen"] = _FROZEN
        return json.loads(json.dumps(identity))

    @property
    def run_id(self) -> str:
        """The first 12 hex digits of the SHA-256 of the canonical JSON of `identity()`."""
        canonical = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _plain(spec: Any) -> dict[str, Any]:
    """The fields of a spec; a number that may be a fraction is one, so that `5` and `5.0` epochs are the same run."""
    values = {}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if dataclasses.is_dataclass(value):
            value = _plain(value)
        elif isinstance(value, int) and str(field.type).startswith("float"):
            value = float(value)
        values[field.name] = value
    return values
