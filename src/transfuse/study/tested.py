"""What the seeds of an arm said of a part of the data, as an arm of the statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from transfuse.errors import DataError
from transfuse.metrics import COUNT_METRICS

if TYPE_CHECKING:
    import pandas as pd

    from transfuse.statistics.arm import Arm


def arm_of_predictions(seeds: Sequence[pd.DataFrame], metric: str, name: str) -> Arm:
    """An arm from the predictions of its seeds for the same samples, in any order.

    Args:
        seeds: for each seed `sample_id, patient_id, target, scores`, or `counts` of a segmentation.
        metric: of scores or of counted pixels.
        name: of the arm, in messages.

    Raises:
        DataError: seeds with other samples.
    """
    from transfuse.statistics.arm import arm_of_scores
    from transfuse.statistics.counts import arm_of_counts

    ordered = [seed.sort_values("sample_id") for seed in seeds]
    first = ordered[0]
    if any(not np.array_equal(seed["sample_id"], first["sample_id"]) for seed in ordered):
        raise DataError(f"the runs of {name} were tested on different samples; they cannot be compared")
    patients = first["patient_id"].to_numpy()
    if metric in COUNT_METRICS:
        counts = np.stack([np.stack(list(seed["counts"])).reshape(len(seed), -1, 3) for seed in ordered])
        return arm_of_counts(counts, patients, metric, background=True, name=name)
    target = np.stack(list(first["target"]))
    return arm_of_scores(
        target[:, 0].astype(np.int64) if target.shape[1] == 1 and not np.isnan(target).any() else target,
        np.stack([np.stack(list(seed["scores"])) for seed in ordered]),
        patients,
        metric,
    )
