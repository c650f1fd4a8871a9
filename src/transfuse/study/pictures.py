"""The analyses of a study that end in pictures: filters, weights, activation maps, optimised inputs, Grad-CAM.

Of volumes the middle slice is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from transfuse.study.looked import BATCH, Found, Looked, batches_of, blocks_for, part_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from transfuse.models import Blocks

Pixels = TypeVar("Pixels", "np.ndarray", "Tensor")

IMAGES = 6
SHOWN_FILTERS = 64
SHOWN_CHANNELS = 16


def filters(looked: Looked) -> Found:
    """The first layer before and after training, the difference, and over the steps kept (AN-9, V Fig 14)."""
    from transfuse.analysis import filter_grid, first_layer, first_layer_filters

    found = Found()
    before, after = looked.job.sides
    layer = first_layer(looked.network(before), looked.network(after))
    limit = float(max(np.abs(layer.initial).max(), np.abs(layer.trained).max()))
    for caption, kernels in (
        ("at the start", layer.initial),
        ("trained", layer.trained),
        ("difference", layer.difference),
    ):
        found.show(caption, filter_grid(kernels[:SHOWN_FILTERS], limit=limit))
    strongest = float(np.abs(layer.difference).max())
    if 0 < strongest < limit / 4:
        how = f"difference, {limit / strongest:.0f} times as strong"
        found.show(how, filter_grid(layer.difference[:SHOWN_FILTERS], limit=strongest))
    for step in looked.snapshots(after):
        kernels = first_layer_filters(looked.network(after, step))
        found.show(f"after step {step}", filter_grid(kernels[:SHOWN_FILTERS], limit=limit))
    size, change = float(np.linalg.norm(layer.initial)), float(np.linalg.norm(layer.difference))
    found.add("relative_change", change / size if size else None, block="first layer", position=0)
    return found


def histogram(looked: Looked) -> Found:
    """The distribution of the first layer's weights before and after training, in the same bins (AN-11)."""
    from transfuse.analysis import first_layer_filters, weight_histogram

    found = Found()
    weights = [first_layer_filters(looked.network(side)) for side in looked.job.sides]
    edges = weight_histogram(np.concatenate([one.ravel() for one in weights])).edges
    for side, one in zip(looked.job.sides, weights, strict=True):
        counts = weight_histogram(one, bins=edges)
        found.facts[f"std_{side.state}"] = counts.std
        for low, high, count in zip(edges[:-1], edges[1:], counts.counts, strict=True):
            found.add("weights", float(count), block="first layer", label=side.state, low=float(low), high=float(high))
    return found


def maps(looked: Looked) -> Found:
    """The channels of a block for a few images, before and after training (AN-10)."""
    from transfuse.analysis import activation_maps, tile

    spec, found = looked.job.spec, Found()
    images = _images(looked, 2)
    count = spec.channels or SHOWN_CHANNELS
    drawn: dict[str, np.ndarray] = {}
    for side in looked.job.sides:
        model = looked.network(side)
        blocks = blocks_for(looked, model)
        for name in spec.blocks or (blocks.names[len(blocks) // 2],):
            drawn[f"{name}, {_when(side.state)}"] = activation_maps(
                model, images, name, channels=count, blocks=blocks
            ).values
    drawn = {caption: middle_slice(values) for caption, values in drawn.items()}
    for number, seen in enumerate(_as_seen(looked, images)):
        found.show(f"{_shown(looked)} {number + 1}", seen)
        for caption, values in drawn.items():
            found.show(f"{_shown(looked)} {number + 1}, {caption}", tile(values[number], scaling="each"))
    return found


def maximise(looked: Looked) -> Found:
    """Images that a filter answers to most, of some channels of each block (AN-27)."""
    from transfuse.analysis import maximise as optimise
    from transfuse.analysis import tile

    spec, found = looked.job.spec, Found()
    model = looked.network(looked.job.sides[0])
    dataset = part_of(looked).dataset
    blocks = blocks_for(looked, model)
    for place, block in enumerate(blocks):
        made = optimise(
            model,
            block.name,
            range(spec.channels or 8),
            size=dataset.shape[1:],
            in_channels=dataset.info.channels,
            mean=dataset.mean,
            std=dataset.std,
            blocks=blocks,
            **spec.given("steps", "jitter", "frequency_prior"),
        )
        found.show(block.name, tile(middle_slice(made.images), scaling="unit"))
        found.add("activation_before", float(made.before.mean()), block=block.name, position=place)
        found.add("activation_after", float(made.after.mean()), block=block.name, position=place)
    return found


def gradcam(looked: Looked) -> Found:
    """Where the trained network looks, and where masks are known, how much of it lies inside them (AN-26)."""
    from transfuse.analysis import gradcam as grad_cam
    from transfuse.analysis import gradcam_block

    spec, found = looked.job.spec, Found()
    model = looked.network(looked.job.sides[0])
    images = _images(looked)
    blocks = blocks_for(looked, model)
    names = spec.blocks or (gradcam_block(model, images, blocks=blocks),)
    for place, name in enumerate(names):
        heat = grad_cam(model, images, name, blocks=blocks)
        for number, (seen, one) in enumerate(zip(_as_seen(looked, images), middle_slice(heat.numpy(), 3), strict=True)):
            found.show(f"{_shown(looked)} {number + 1}, {name}", _overlaid(seen, one))
        _mass(looked, found, model, name, place, blocks)
    return found


def _mass(looked: Looked, found: Found, model: nn.Module, block: str, place: int, blocks: Blocks) -> None:
    """The share of the maps' mass inside the lesions of all images that have any, beside that of an even map."""
    import torch

    from transfuse.analysis import gradcam as grad_cam
    from transfuse.analysis import mass_inside
    from transfuse.data.phantoms import phantom_masks

    part, data = part_of(looked), looked.spec.data
    if data.name not in ("fundus-phantom", "natural-phantom") or data.permute_labels:
        return
    numbers = [int(name.removeprefix("s")) for name in part.sample_ids]
    masks = phantom_masks(data.name, numbers, size=part.dataset.size, seed=data.seed)
    batches = (np.arange(first, min(first + BATCH, len(part))) for first in range(0, len(part), BATCH))
    heat = [grad_cam(model, part.normalise(part.tensors(batch)), block, blocks=blocks) for batch in batches]
    inside = mass_inside(torch.cat(heat), masks)
    found.add("mass_inside_lesions", inside.value, block=block, position=place)
    found.add("mass_by_chance", inside.level, block=block, position=place)
    found.add("samples", float(len(inside.shares)), block=block, position=place)


def _images(looked: Looked, most: int = IMAGES) -> Tensor:
    count = looked.job.spec.images or most
    return next(batches_of(part_of(looked), count, count))[0]


def _shown(looked: Looked) -> str:
    return "middle slice of volume" if part_of(looked).dataset.info.spatial_dims == 3 else "image"


def _as_seen(looked: Looked, images: Tensor) -> np.ndarray:
    """Normalised images as a person sees them: uint8 (N, H, W) or (N, H, W, 3); of volumes the middle slice."""
    import torch

    dataset = part_of(looked).dataset
    images = middle_slice(images)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (dataset.mean, dataset.std))
    pixels = ((images * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).numpy()
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def middle_slice(maps: Pixels, axes: int = 4) -> Pixels:
    """Maps (N, C, H, W), or those of volumes (N, C, D, H, W) in the middle of their depth.

    Args:
        maps: an array or a tensor.
        axes: how many it has where it is of images.

    >>> middle_slice(np.arange(24).reshape(1, 1, 3, 2, 4)).tolist()
    [[[[8, 9, 10, 11], [12, 13, 14, 15]]]]
    """
    return maps if maps.ndim == axes else maps[..., maps.shape[-3] // 2, :, :]


def _overlaid(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map in [0, 1] over its image: the warmer, the more."""
    grey = image if image.ndim == 2 else image.mean(-1)
    colour = np.stack([np.full_like(heat, 255.0), 255 * (1 - heat) * 0.75, np.zeros_like(heat)], -1)
    share = 0.6 * heat[..., None]
    return np.round((1 - share) * grey[..., None] + share * colour).astype(np.uint8)


def _when(state: str) -> str:
    return {"initial": "at the start", "trained": "trained"}[state]
