"""CCA with the same number of places and of channels in every block, so that blocks of all sizes can be compared."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from transfuse.analysis.activations import NO_BATCHES, Batch, Taps, images_of_batch
from transfuse.analysis.cca import canonical
from transfuse.analysis.grids import Grid, common, grid_of, on_grid
from transfuse.analysis.views import channels_of, finite
from transfuse.errors import AnalysisError, AnalysisWarning
from transfuse.models.blocks import Blocks

__all__ = ["PatchSimilarity", "cca_patches"]

_BATCH = 64


@dataclass(frozen=True)
class PatchSimilarity:
    """Patch-sampled CCA of one block in two networks.

    Args:
        value: mean over the repeats of the mean canonical correlation. `float(similarity)` is this.
        spread: standard deviation over the repeats (N - 1); 0 with one repeat.
        values: of each repeat.
        images: n, images a repeat.
        positions: p, samples a repeat: n times the block's places.
        channels: d of each network.
        independent: expected of features that have nothing to do with each other; compare it with `value`.
    """

    value: float
    spread: float
    values: tuple[float, ...]
    images: int
    positions: int
    channels: int
    independent: float

    def __float__(self) -> float:
        return self.value


def cca_patches(
    model_a: nn.Module,
    model_b: nn.Module,
    images: Tensor | np.ndarray | Iterable[Batch],
    blocks: Blocks | Sequence[str],
    p: int = 10_000,
    d: int = 64,
    repeats: int = 5,
    share_channels: bool = True,
    *,
    seed: int = 0,
) -> dict[str, PatchSimilarity]:
    """CCA of p places and d channels of each block, the same for all blocks (Raghu et al. 2019, appendix).

    A block with h x w places sees `n = p / (h w)` images (rounded), drawn anew for each repeat, and d of its channels:
    so the level of independent features is the same in every block, and wide or small layers do not look more alike
    for that alone. The paper gives neither p nor d nor whether both networks share the drawn channels.

    Args:
        model_a: any network. Images go through in eval mode, without gradients.
        model_b: the other; its blocks have the same names.
        images: (N, C, H, W), or batches of them (a DataLoader's), which are put together in memory; brought to the
            networks' type and device; N at least p for blocks without places.
        blocks: `blocks_of(model_a)`, or names of modules of both. Where their grids differ, the finer map is averaged
            over areas to the coarser; the class token is left out where tokens go back to a grid.
        p: places a repeat; at least 10 d for a value that means something.
        d: channels a repeat. Blocks with fewer use all, and a warning names them.
        repeats: draws of images and channels.
        share_channels: the same channels in both, as it should be for one network before and after training. For
            networks trained from different random values channels do not correspond: False draws them independently.
        seed: of the draws.

    Returns:
        `{block: PatchSimilarity}`, in order.

    Raises AnalysisError for arguments below 1, shared channels of blocks with different numbers of them, and what
    `cca` and `activations` raise. Warns (AnalysisWarning), once a kind, of too few images for p and too few channels
    for d, with the blocks.

    >>> images = torch.randn(40, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2))
    >>> result = cca_patches(model, model, images, ["0", "2"], p=500, d=8)
    >>> {name: (round(block.value, 6), block.images, block.positions) for name, block in result.items()}
    {'0': (1.0, 5, 500), '2': (1.0, 31, 496)}
    """
    for name, number in (("p", p), ("d", d), ("repeats", repeats)):
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise AnalysisError(f"{name} is {number!r}; expected a whole number of at least 1")
    pictures = _together(images)
    if pictures.ndim < 2 or len(pictures) < 2:
        raise AnalysisError(f"images has shape {tuple(pictures.shape)}; expected at least 2 images, (N, C, H, W)")
    sizes = _sizes(model_a, model_b, pictures[:1], blocks, share_channels)
    counts = {name: min(max(1, round(p / size.places)), len(pictures)) for name, size in sizes.items()}
    _tell(sizes, counts, p, d, len(pictures))
    rng = np.random.default_rng(seed)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sizes}
    for _ in range(repeats):
        order = rng.permutation(len(pictures))[: max(counts.values())]
        channels = {name: _draw(rng, size.channels, d, share_channels) for name, size in sizes.items()}
        sides = [
            _sampled(model, blocks, pictures, order, counts, sizes, {n: c[side] for n, c in channels.items()})
            for side, model in enumerate((model_a, model_b))
        ]
        for name in sizes:
            found[name].append(_named(name, sides[0][name], sides[1][name]))
    return {name: _summary(found[name], counts[name], sizes[name], d) for name in sizes}


def _together(images: Tensor | np.ndarray | Iterable[Batch]) -> Tensor:
    """(N, C, H, W) of an array or of batches."""
    if isinstance(images, Tensor):
        return images
    if isinstance(images, np.ndarray):
        return torch.as_tensor(images)
    single = isinstance(images, Dataset) and not isinstance(images, IterableDataset)
    if single or isinstance(images, Mapping | str) or not isinstance(images, Iterable):
        raise AnalysisError(
            f"images is {type(images).__name__}; expected a tensor (N, C, H, W), or batches of them: "
            f"{'DataLoader(images, batch_size=64)' if single else 'a list of tensors, or a DataLoader'}"
        )
    batches = [torch.as_tensor(b) if isinstance(b, np.ndarray) else images_of_batch(b) for b in images]
    if not batches:
        raise AnalysisError(f"images: {NO_BATCHES}")
    if len(shapes := dict.fromkeys(tuple(batch.shape[1:]) for batch in batches)) > 1:
        raise AnalysisError(
            f"images has batches of images of shapes {', '.join(map(str, shapes))}; expected images of one size"
        )
    return torch.cat(batches)


@dataclass(frozen=True)
class _Size:
    grid: Grid
    places: int
    channels: tuple[int, int]


def _sizes(
    model_a: nn.Module, model_b: nn.Module, one: Tensor, blocks: Blocks | Sequence[str], share_channels: bool
) -> dict[str, _Size]:
    """Grid and channels of each block, from one image."""
    seen: list[dict[str, tuple[Grid, int, int]]] = []
    for model in (model_a, model_b):
        shapes: dict[str, tuple[Grid, int]] = {}

        def note(name: str, output: Tensor, shapes: dict[str, tuple[Grid, int]] = shapes) -> None:
            shapes[name] = (grid_of(output), channels_of(output))

        taps = Taps(model, blocks, note)
        taps.run(one)
        seen.append({name: (*shapes[name], taps.prefix_tokens(name)) for name in taps.names})
    if list(seen[0]) != list(seen[1]):
        raise AnalysisError(
            f"the blocks of the two networks differ: {', '.join(seen[0])} and {', '.join(seen[1])}; expected the same"
        )
    sizes = {}
    for name, (grid, width, prefix) in seen[0].items():
        other_grid, other_width, other_prefix = seen[1][name]
        if share_channels and width != other_width:
            raise AnalysisError(
                f"block {name!r} has {width} channels in one network and {other_width} in the other, so they cannot "
                "share the drawn channels; say share_channels=False"
            )
        labels = (f"{name} of model_a", f"{name} of model_b")
        shared = common(grid, other_grid, labels, (prefix, other_prefix), tuple(one.shape[2:]))
        places = shared[0] if shared[-1:] == (-1,) else math.prod(shared)
        sizes[name] = _Size(shared, places, (width, other_width))
    return sizes


def _tell(sizes: dict[str, _Size], counts: dict[str, int], p: int, d: int, images: int) -> None:
    messages = []
    short = {name: round(p / size.places) for name, size in sizes.items() if round(p / size.places) > images}
    if short:
        name, needed = max(short.items(), key=lambda item: item[1])
        messages.append(
            f"{images} images are too few for p = {p} places in {', '.join(map(repr, short))}: all are used, which "
            f"gives {counts[name] * sizes[name].places} in {name!r}, where {needed} images would give p. Its values "
            "do not compare with those of other blocks; take more images or a smaller p."
        )
    narrow = [name for name, size in sizes.items() if min(size.channels) < d]
    if narrow:
        messages.append(
            f"d = {d} is more than the channels of {', '.join(map(repr, narrow))}: all are used there "
            f"({', '.join(str(min(sizes[name].channels)) for name in narrow)}). Their values do not compare with those "
            "of other blocks; take a smaller d."
        )
    few = {
        name: counts[name] * size.places
        for name, size in sizes.items()
        if counts[name] * size.places < 10 * min(d, max(size.channels))
    }
    if few:
        name = min(few, key=lambda key: few[key])
        messages.append(
            f"{few[name]} places of {min(d, max(sizes[name].channels))} channels in {name!r}; expected at least 10 a "
            "channel, since fewer make any two representations look alike. Compare with `independent`, take a greater "
            "p with more images, or a smaller d."
        )
    for message in messages:
        warnings.warn(message, AnalysisWarning, stacklevel=3)


def _draw(rng: np.random.Generator, channels: tuple[int, int], d: int, share: bool) -> tuple[Tensor, Tensor]:
    first = torch.from_numpy(rng.permutation(channels[0])[:d])
    return first, first if share else torch.from_numpy(rng.permutation(channels[1])[:d])


def _sampled(
    model: nn.Module,
    blocks: Blocks | Sequence[str],
    pictures: Tensor,
    order: np.ndarray,
    counts: dict[str, int],
    sizes: dict[str, _Size],
    channels: dict[str, Tensor],
) -> dict[str, Tensor]:
    """(p, d) float32 of each block: the first n of the images in `order`, the drawn channels."""
    parts: dict[str, list[Tensor]] = {name: [] for name in sizes}
    done = 0

    def keep(name: str, output: Tensor) -> None:
        wanted = output[: max(0, counts[name] - done)]
        if len(wanted):
            axis = -1 if output.ndim == 3 else 1
            picked = finite(name, wanted).index_select(axis, channels[name].to(output.device))
            parts[name].append(on_grid(picked, sizes[name].grid, taps.prefix_tokens(name)).clone().cpu())

    taps = Taps(model, blocks, keep)
    for start in range(0, len(order), _BATCH):
        done = start
        taps.run(pictures[torch.from_numpy(order[start : start + _BATCH])])
    return {name: torch.cat(rows) for name, rows in parts.items()}


def _named(name: str, x: Tensor, y: Tensor) -> tuple[float, float]:
    try:
        result = canonical(x, y)  # _tell has warned
    except AnalysisError as error:
        raise AnalysisError(f"block {name!r}: {error}") from error
    return result.value, result.independent


def _summary(results: list[tuple[float, float]], images: int, size: _Size, d: int) -> PatchSimilarity:
    values = [value for value, _ in results]
    return PatchSimilarity(
        value=float(np.mean(values)),
        spread=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        values=tuple(values),
        images=images,
        positions=images * size.places,
        channels=min(d, min(size.channels)),
        independent=float(np.mean([level for _, level in results])),
    )
