"""CKA of every layer of one network and every layer of another, from one pass over the images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from transfuse.analysis.activations import Batch, Taps, checked_batches, images_of_batch
from transfuse.analysis.cka import FEWEST
from transfuse.analysis.minibatch_cka import MinibatchCKA
from transfuse.analysis.similarity import SimilarityMatrix
from transfuse.errors import AnalysisError, nearest
from transfuse.models.blocks import Blocks

__all__ = ["MinibatchCKA", "cka_matrix"]

VIEWS = ("flat", "pooled", "cls", "patches", "both")


def cka_matrix(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Batch],
    blocks_a: Blocks | Sequence[str],
    blocks_b: Blocks | Sequence[str] | None = None,
    *,
    view: str = "flat",
    average: str = "ratio_of_sums",
    debiased: bool = True,
    kernel: str = "linear",
    bandwidth: float = 1.0,
) -> SimilarityMatrix:
    """CKA of every block of one network and every block of another: minibatch CKA, Nguyen et al. 2021.

    Each batch goes through both networks once (through one, where both are the same), so batches may be shuffled. The
    Gram matrix of a block is made inside the forward pass; no activation is kept, and memory does not grow with the
    number of images: beside the forward pass, 8 N^2 bytes a block for batches of N. Images go through in eval mode and
    without gradients; modes, hooks and random generators are put back.

    Args:
        model_a: any network, whose blocks are the rows.
        model_b: the other, of any architecture that takes the same images; its blocks are the columns.
        batches: images (N, C, H, W), sequences that begin with them (a DataLoader's), or mappings of keyword
            arguments; at least 4 images each, about 64 to 256 for precise values.
        blocks_a: `blocks_of(model_a)`, or names of modules; a module called twice in a pass gives `name` and `name:2`.
        blocks_b: the same for `model_b`; the names in `blocks_a` by default.
        view: what is compared of an output: `flat`, all of it (the papers); `pooled`, the mean over space or patches;
            and for tokens `cls`, `patches` (their mean) or `both`.
        average: `ratio_of_sums` or `mean_of_ratios`, as in `MinibatchCKA`.
        debiased: the unbiased estimate, as in `cka`.
        kernel: `linear` or `rbf`.
        bandwidth: of the RBF kernel, as a fraction of each batch's median distance.

    Returns:
        `SimilarityMatrix`, values about 0 (independent, can be slightly below) to 1. Its `samples` does not count
        batches of fewer than 4 images, which are left out with an AnalysisWarning.

    Raises AnalysisError for unknown blocks, no batches, NaN activations and blocks that do not vary (by name). What a
    network raises comes through with a note on which network and which images.

    >>> import torch
    >>> images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    >>> matrix = cka_matrix(model, model, images.split(16), ["0", "2"])
    >>> matrix.rows, round(matrix["2", "2"], 6)
    (('0', '2'), 1.0)
    """
    if view not in VIEWS:
        raise AnalysisError(f"unknown view {view!r} for CKA: {nearest(view, VIEWS)}")
    sums = MinibatchCKA(average=average, debiased=debiased, kernel=kernel, bandwidth=bandwidth)
    others = blocks_a if blocks_b is None else blocks_b
    sides = [_Side("model_a", model_a, blocks_a, sums, view), _Side("model_b", model_b, others, sums, view)]
    if same := model_a is model_b:
        union = list(dict.fromkeys([*_paths(blocks_a).values(), *_paths(others).values()]))
        sides = [_Side("model_a", model_a, blocks_a if blocks_b is None else union, sums, view)]
    for batch in checked_batches(batches):
        images = images_of_batch(batch)
        if images.ndim and len(images) < FEWEST[True]:
            sums.leave_out(len(images))
            continue
        grams = [side.grams(batch) for side in sides]
        if same and blocks_b is not None:
            sums.add(_picked(grams[0], blocks_a), _picked(grams[0], blocks_b))
        else:
            sums.add(grams[0], grams[-1])
    return sums.result(stacklevel=3)


class _Side:
    """One network, and the Gram matrices of its blocks in a batch."""

    def __init__(
        self, side: str, model: nn.Module, blocks: Blocks | Sequence[str], sums: MinibatchCKA, view: str
    ) -> None:
        self._side, self._sums, self._view = side, sums, view
        self._grams: dict[str, Tensor] = {}
        # Flattened outputs are the same features in any order of the axes.
        self._taps = Taps(model, blocks, self._read, arrange=view != "flat")

    def _read(self, name: str, output: Tensor) -> None:
        features = output if self._view == "flat" else self._taps.features(name, output, self._view, VIEWS)
        self._grams[name] = self._sums.gram(f"{name} of {self._side}", features)

    def grams(self, batch: Batch) -> dict[str, Tensor]:
        self._grams = {}
        with _noted(self._side, self._taps.model, batch):
            self._taps.run(batch)
        return {name: self._grams[name] for name in self._taps.names}


@contextmanager
def _noted(side: str, model: nn.Module, batch: Batch) -> Iterator[None]:
    try:
        yield
    except AnalysisError:
        raise
    except Exception as error:
        keys = f" with the arguments {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
        note = (
            f"cka_matrix gave {side}, {type(model).__name__}, a batch of shape {tuple(images_of_batch(batch).shape)}"
            f"{keys}; both networks get the same batches."
        )
        if not isinstance(error, TypeError):
            note += (
                " A network that takes another size can bring its own resizing: "
                "nn.Sequential(nn.Upsample(size=224), network), whose blocks are then named '1.NAME'."
            )
        error.add_note(note)
        raise


def _paths(blocks: Blocks | Sequence[str]) -> dict[str, str]:
    """Block name -> the module whose output is the block's."""
    if isinstance(blocks, Blocks):
        return {block.name: block.output for block in blocks}
    return {name: name for name in blocks}


def _picked(grams: Mapping[str, Tensor], blocks: Blocks | Sequence[str]) -> dict[str, Tensor]:
    """Those of `blocks` from Gram matrices by module, with every call of a module."""
    picked: dict[str, Tensor] = {}
    for name, path in _paths(blocks).items():
        calls = (key for key in grams if key == path or (key.startswith(f"{path}:") and key[len(path) + 1 :].isdigit()))
        picked |= {name + key[len(path) :]: grams[key] for key in calls}
    return picked
