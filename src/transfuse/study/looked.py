"""What an analysis works with: the networks and images that it looks at, and what it finds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transfuse.errors import AnalysisError, AnalysisWarning, DataError, nearest
from transfuse.results.store import Store
from transfuse.specs import RunSpec
from transfuse.study.analyses import PlannedAnalysis, Side
from transfuse.study.lengths import total_steps
from transfuse.study.network import skeleton
from transfuse.study.snapshots import snapshot_file, snapshot_steps
from transfuse.study.sources import images_of, open_data, split_data

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from transfuse.data import Split
    from transfuse.data.splits import Part
    from transfuse.models import Blocks

COLUMNS = ("block", "other_block", "position", "step", "label", "quantity", "value", "low", "high")
"""Of a table of measurements; `position` is the block's place from the image on."""

BATCH = 128
IMAGES = 512
ORDER_SEED = 0
"""Images are looked at in one random order, the same for all: batches of sorted classes bias minibatch CKA."""


@dataclass
class Found:
    """What an analysis found: rows, pictures (uint8) with their captions, and facts for the record."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, quantity: str, value: float | None, **rest: Any) -> None:
        """Adds a row; what is not said of it is empty."""
        self.rows.append({**dict.fromkeys(COLUMNS), "quantity": quantity, "value": value, **rest})

    def show(self, caption: str, picture: np.ndarray) -> None:
        """Adds a picture, (H, W) or (H, W, 3) uint8; pictures keep their order."""
        key = f"{len(self.arrays):04d}"
        self.arrays[key] = picture
        self.facts.setdefault("captions", {})[key] = caption

    def frame(self) -> pd.DataFrame:
        """The rows as a table."""
        import pandas as pd

        kinds = dict.fromkeys(("block", "other_block", "label", "quantity"), "object")
        kinds |= dict.fromkeys(("position", "step", "value", "low", "high"), "float64")
        return pd.DataFrame(self.rows, columns=list(COLUMNS)).astype(kinds)

    def tensors(self) -> dict[str, Tensor]:
        """The pictures as tensors, for a file."""
        import torch

        return {key: torch.from_numpy(np.ascontiguousarray(picture)) for key, picture in self.arrays.items()}


class Looked:
    """What an analysis looks at: its networks and its images, opened when they are first asked for.

    Args:
        job: the analysis.
        store: where the runs are.
        device: where networks are run.
        folder: for files of the analysis while it goes on.
    """

    def __init__(self, job: PlannedAnalysis, store: Store, device: str, folder: Path) -> None:
        from transfuse.training.device import choose_device

        self.job, self.store, self.folder = job, store, folder
        self.device = choose_device(device)
        self.spec: RunSpec = job.sides[0].run.spec
        self.split: Split = self._split(self.spec)

    def network(self, side: Side, step: int | None = None) -> nn.Module:
        """The network of a side, or what it was after a step of its training."""
        file = {"initial": "initial.safetensors", "trained": "best.safetensors"}[side.state]
        path = self.store.run_folder(side.run.run_id) / (file if step is None else snapshot_file(step))
        from transfuse.models import load_weights

        split = self.split if side.run.spec.data == self.spec.data else self._split(side.run.spec)
        model = skeleton(side.run.spec.model, side.run.spec.init, images_of(split))
        model.load_state_dict(dict(load_weights(str(path))))
        return model.to(self.device).eval()

    def snapshots(self, side: Side) -> list[int]:
        """The steps of a run whose weights were kept as the study asks, however many more there are."""
        folder = self.store.run_folder(side.run.run_id)
        wanted = snapshot_steps(side.run.spec.train.snapshots, total_steps(side.run.spec, self.split))
        return [step for step in wanted if (folder / snapshot_file(step)).exists()]

    def other_split(self) -> Split:
        """The images of the source that the analysis names."""
        if self.job.other_data is None:
            raise AnalysisError(
                f"no arm of the study starts from the source {self.job.spec.source!r}, so its data were not opened; "
                "give an arm that does, such as {depth: all}"
            )
        return self._split(self.job.other_data)

    @staticmethod
    def _split(spec: RunSpec) -> Split:
        dataset = open_data(spec.data)
        if dataset.info.fingerprint != spec.fingerprint:
            raise DataError(
                f"the data {spec.data.name!r} changed since the networks were trained (fingerprint "
                f"{spec.fingerprint[:12]} then, {dataset.info.fingerprint[:12]} now); start the study again"
            )
        return split_data(spec.data, dataset)


def batches_of(part: Part, images: int | None, batch: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images and targets: `images` of the part (all, if None), in one random order."""
    import torch

    order = np.random.default_rng(ORDER_SEED).permutation(len(part))[:images]
    targets = part.targets
    for start in range(0, len(order), batch):
        positions = order[start : start + batch]
        yield part.normalise(part.tensors(positions)), torch.from_numpy(targets[positions])


def part_of(looked: Looked) -> Part:
    """The part of the data that an analysis looks at."""
    part: Part = getattr(looked.split, looked.job.spec.part)
    return part


def blocks_for(looked: Looked, model: nn.Module) -> Blocks:
    """The blocks of a network that an analysis asks for."""
    from transfuse.models import Blocks, blocks_of
    from transfuse.models.architectures.tokens import EMBEDDING

    spec = looked.job.spec
    blocks = blocks_of(model, spec.level)
    if not spec.blocks:
        seen = tuple(block for block in blocks if spec.view != "cls" or block.name != EMBEDDING)
        if len(seen) < len(blocks):
            warnings.warn(
                f"block {EMBEDDING!r} is left out: the class token has seen nothing of the image there",
                AnalysisWarning,
                stacklevel=2,
            )
        return Blocks(blocks.level, seen, blocks.head)
    if unknown := [name for name in spec.blocks if name not in blocks.names]:
        raise AnalysisError(f"no block {unknown[0]!r} at level {spec.level!r}; {nearest(unknown[0], blocks.names)}")
    return Blocks(blocks.level, tuple(block for block in blocks if block.name in spec.blocks), blocks.head)
