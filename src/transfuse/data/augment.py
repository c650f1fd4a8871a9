"""Augmentations on batches: float images `(n, C, H, W)` in [0, 1] in, the same shape and range out.

Every image gets parameters of its own, drawn from the generator that is passed in (on the CPU or on the images'
device); the same generator state gives the same result. The building blocks take their parameters as arguments; the
presets in `AUGMENTATIONS` draw them. A preset first moves an image and then changes its colours; `together` moves its
mask alike, each pixel with its nearest label. Where a paper first resizes to 256 and crops to 224, the crop is here
taken from the image as delivered and brought back to its size, which is the same picture.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from transfuse.data.augment_volumes import draw_moves, move, vary_intensity
from transfuse.errors import DataError

if TYPE_CHECKING:
    from torch import Generator, Tensor

    Move = Callable[[Tensor, str], Tensor]
    """Moves a batch `(n, channels, H, W)`, interpolated "bilinear" (images) or "nearest" (masks)."""

_LUMINANCE = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale


class Augmentation:
    """A named set of random changes: called as `augment(images, generator)`, it gives the changed images.

    Args:
        draw: draws from the generator how the images `(n, C, H, W)` are moved, and gives what moves them.
        colours: changes their colours after that; None for nothing.
    """

    def __init__(
        self, draw: Callable[[Tensor, Generator], Move], colours: Callable[[Tensor, Generator], Tensor] | None = None
    ) -> None:
        self.draw, self.colours = draw, colours
        functools.update_wrapper(self, draw)
        self.__qualname__: str = draw.__qualname__

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by its name, as a function is

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """The images, changed."""
        moved = self.draw(images, generator)(images, "bilinear")
        return moved if self.colours is None else self.colours(moved, generator)

    def together(self, images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Images changed as by a call, with the same numbers drawn, and their masks `(n, H, W)`, integers, moved alike.

        What comes in from outside an image has the label of its nearest edge; of a black border it is 0.
        """
        move = self.draw(images, generator)
        moved = move(images, "bilinear")
        labels = move(masks.unsqueeze(1).to(images.dtype), "nearest").squeeze(1).to(masks.dtype)
        return moved if self.colours is None else self.colours(moved, generator), labels


def augmentation(
    colours: Callable[[Tensor, Generator], Tensor] | None = None,
) -> Callable[[Callable[[Tensor, Generator], Move]], Augmentation]:
    """Makes an `Augmentation` of the function that draws how images are moved."""
    return functools.partial(Augmentation, colours=colours)


def flip(images: Tensor, which: Tensor, axis: int) -> Tensor:
    """Mirror the images whose entry in `which` `(n,)`, bool, is set: axis -1 left-right, -2 upside down."""
    import torch

    return torch.where(which.view(-1, 1, 1, 1), images.flip(axis), images)


def crop_and_rotate(
    images: Tensor, boxes: Tensor, degrees: Tensor | None = None, interpolation: str = "bilinear"
) -> Tensor:
    """Cut a box out of each image, turned about the box's centre, and bring it back to the image's size.

    Args:
        images: `(n, C, H, W)`.
        boxes: `(n, 4)` centre x, centre y, width, height as fractions of the image; a negative width mirrors
            left-right, a negative height upside down.
        degrees: `(n,)` anticlockwise, or None. What lies outside the image is its nearest edge.
        interpolation: "bilinear", within [0, 1]; or "nearest", for labels, whose values stay.
    """
    import torch
    from torch.nn import functional

    count, _, rows, columns = images.shape
    x, y, width, height = (values.view(-1, 1, 1) for values in boxes.unbind(1))
    # Coordinates of pixel centres in [-1, 1]; several times faster than affine_grid.
    across = ((2 * torch.arange(columns, device=images.device) + 1) / columns - 1).view(1, 1, -1) * width
    down = ((2 * torch.arange(rows, device=images.device) + 1) / rows - 1).view(1, -1, 1) * height
    grid = torch.empty((count, rows, columns, 2), dtype=images.dtype, device=images.device)
    if degrees is None:
        grid[..., 0] = across + (2 * x - 1)
        grid[..., 1] = down + (2 * y - 1)
    else:
        angle, aspect = torch.deg2rad(degrees).view(-1, 1, 1), columns / rows
        grid[..., 0] = torch.cos(angle) * across - torch.sin(angle) / aspect * down + (2 * x - 1)
        grid[..., 1] = torch.sin(angle) * aspect * across + torch.cos(angle) * down + (2 * y - 1)
    moved = functional.grid_sample(images, grid, mode=interpolation, padding_mode="border", align_corners=False)
    return moved.clamp_(0, 1) if interpolation == "bilinear" else moved


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply each image by its factor `(n,)` and clip at 1."""
    return (images * factors.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Stretch each image by its factor `(n,)` about its mean luminance and clip to [0, 1]."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    if images.shape[1] == 3:
        mean = (mean * mean.new_tensor(_LUMINANCE).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    factors = factors.view(-1, 1, 1, 1)
    return (images * factors).add_(mean * (1 - factors)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Stretch the colours of each image by its factor `(n,)` about its luminance; grey images `(n, 1, H, W)` stay."""
    if images.shape[1] == 1:
        return images
    factors = factors.view(-1, 1, 1, 1)
    return (images * factors + to_luminance(images) * (1 - factors)).clamp_(0, 1)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue (HSV) of each image by `(n,)` full turns, in [-0.5, 0.5]; grey stays as it is."""
    import torch

    if images.shape[1] == 1:
        return images
    # A few images at a time on the CPU: temporaries that fit the cache are several times faster than large ones.
    step = max(1, 16384 // (images.shape[-2] * images.shape[-1])) if images.device.type == "cpu" else len(images)
    result = torch.empty_like(images)
    for start in range(0, len(images), step):
        piece = slice(start, start + step)
        _turn_hue(images[piece], turns[piece], result[piece])
    return result


def _turn_hue(images: Tensor, turns: Tensor, result: Tensor) -> None:
    import torch

    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    # The hue in sixths of a turn. Where chroma is 0 it does not matter.
    spread = chroma.clamp_min(1e-12)
    sixths = torch.where(value == green, (blue - red).div_(spread).add_(2), (red - green).div_(spread).add_(4))
    sixths = torch.where(value == red, (green - blue).div_(spread), sixths).add_(6 * turns.view(-1, 1, 1))
    # Back to RGB in closed form: channel = value - chroma * clamp(min(k, 4 - k), 0, 1), k = (offset + hue) mod 6.
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        k = sixths + offset
        k.sub_((k / 6).floor_().mul_(6))
        weight = k.sub_(2).abs_().neg_().add_(2).clamp_(0, 1)  # min(k, 4 - k) = 2 - |k - 2|
        torch.sub(value, weight.mul_(chroma), out=result[:, channel])


def to_luminance(images: Tensor) -> Tensor:
    """Luminance `(n, 1, H, W)` of colour images; grey images as they are."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (_LUMINANCE[0] * red + _LUMINANCE[1] * green + _LUMINANCE[2] * blue).unsqueeze(1)


def ten_crop(images: Tensor, size: int) -> Tensor:
    """Four corners and the centre, then the same of the mirrored image: `(n, 10, C, size, size)`.

    The test protocol of V (ChestXray14): predictions are averaged over the ten. Order as in torchvision: top left, top
    right, bottom left, bottom right, centre.

    Raises:
        DataError: the images are smaller than `size`.
    """
    import torch

    height, width = images.shape[-2:]
    if size > min(height, width) or size < 1:
        raise DataError(
            f"ten_crop of size {size} does not fit images of {height} x {width} pixels. Cure: a size of "
            f"1 to {min(height, width)}."
        )
    bottom, right = height - size, width - size
    # torchvision rounds half to even here, so the mirrored centre is taken from the mirrored image.
    middle = (round(bottom / 2), round(right / 2))
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), middle]
    crops = [view[..., y : y + size, x : x + size] for view in (images, images.flip(-1)) for y, x in corners]
    return torch.stack(crops, dim=1)


def random_crop_boxes(
    count: int, area: tuple[float, float], ratio: tuple[float, float], generator: Generator, attempts: int = 10
) -> Tensor:
    """Boxes `(count, 4)` (centre x, y, width, height) of a random area and aspect ratio, wholly inside the image.

    As torchvision's RandomResizedCrop on a square image: area uniform, ratio log-uniform, the first of 10 attempts
    that fits, else the whole image (which matters for areas above 1, as in M's 0.8-1.2).
    """
    import torch

    random = torch.rand((3, count, attempts), generator=generator, device=generator.device)
    areas = area[0] + (area[1] - area[0]) * random[0]
    ratios = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * random[1])
    widths, heights = torch.sqrt(areas * ratios), torch.sqrt(areas / ratios)
    fits = (widths <= 1) & (heights <= 1)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    found = fits.gather(1, first)[:, 0]
    width = torch.where(found, widths.gather(1, first)[:, 0], 1.0)
    height = torch.where(found, heights.gather(1, first)[:, 0], 1.0)
    place = random[2, :, :2]
    return torch.stack(
        [width / 2 + place[:, 0] * (1 - width), height / 2 + place[:, 1] * (1 - height), width, height], dim=1
    )


def _uniform(images: Tensor, low: float, high: float, generator: Generator) -> Tensor:
    import torch

    values = torch.rand(len(images), generator=generator, device=generator.device)
    return (low + (high - low) * values).to(images.device)


def _coin(images: Tensor, generator: Generator, probability: float = 0.5) -> Tensor:
    return _uniform(images, 0, 1, generator) < probability


def _boxed(boxes: Tensor, degrees: Tensor | None = None) -> Move:
    def move(batch: Tensor, interpolation: str) -> Tensor:
        return crop_and_rotate(batch, boxes, degrees, interpolation)

    return move


def _cropped(
    images: Tensor,
    generator: Generator,
    area: tuple[float, float],
    ratio: tuple[float, float] = (1.0, 1.0),
    mirror: tuple[float, float] = (0.0, 0.0),
) -> Move:
    """A random crop, mirrored left-right and upside down with these probabilities in the same step."""
    boxes = random_crop_boxes(len(images), area, ratio, generator).to(images.device)
    for column, probability in zip((2, 3), mirror, strict=True):
        if probability:
            boxes[:, column] *= 1 - 2 * _coin(images, generator, probability).to(boxes.dtype)
    return _boxed(boxes)


@augmentation()
def none(images: Tensor, generator: Generator) -> Move:
    """The images as they are."""
    return lambda batch, interpolation: batch


def _mild_colours(images: Tensor, generator: Generator) -> Tensor:
    images = adjust_hue(images, _uniform(images, -0.05, 0.05, generator))
    return adjust_contrast(images, _uniform(images, 0.8, 1.2, generator))


@augmentation(_mild_colours)
def cxr(images: Tensor, generator: Generator) -> Move:
    """T on CheXpert (DS-2): mild random crop, hue and contrast, no flips: the heart is on the left.

    The sizes are stated nowhere; here area 0.9-1.0, hue +-0.05 of a turn, contrast factor 0.8-1.2.
    """
    return _cropped(images, generator, (0.9, 1.0))


@augmentation(_mild_colours)
def fundus(images: Tensor, generator: Generator) -> Move:
    """T on RETINA (DS-1): as `cxr`, with flips left-right and upside down."""
    return _cropped(images, generator, (0.9, 1.0), mirror=(0.5, 0.5))


@augmentation()
def chestxray14(images: Tensor, generator: Generator) -> Move:
    """V on ChestXray14 (DS-3, OPT-3): RandomResizedCrop (area 0.08-1, ratio 3/4-4/3) and a left-right flip.

    Also the pipeline assumed for ImageNet pretraining (OPT-7) and the one in P's code (OPT-6b).
    """
    return _cropped(images, generator, (0.08, 1.0), (3 / 4, 4 / 3), mirror=(0.5, 0.0))


@augmentation()
def cifar(images: Tensor, generator: Generator) -> Move:
    """V on CIFAR (OPT-4, "standard"): black border of 1/8 of the side (4 of 32 px), random crop, left-right flip."""
    import torch
    from torch.nn import functional

    height, width = images.shape[-2:]
    border = max(1, height // 8)
    random = torch.rand((2, len(images)), generator=generator, device=generator.device)
    corners = (random * (2 * border + 1)).long().T.tolist()
    mirrored = _coin(images, generator)

    def move(batch: Tensor, interpolation: str) -> Tensor:
        padded = functional.pad(batch, (border,) * 4)
        result = torch.empty_like(batch)
        for i, (y, x) in enumerate(corners):  # copies; an index array is 10 x slower
            result[i] = padded[i, :, y : y + height, x : x + width]
        return flip(result, mirrored, -1)

    return move


def _matsoukas_colours(images: Tensor, generator: Generator) -> Tensor:
    brightness, contrast = (_uniform(images, 0.8, 1.2, generator) for _ in range(2))
    saturation, hue = _uniform(images, 0.9, 1.1, generator), _uniform(images, -0.1, 0.1, generator)
    chosen = _coin(images, generator, 0.2).nonzero()[:, 0]
    jittered = adjust_contrast(adjust_brightness(images[chosen], brightness[chosen]), contrast[chosen])
    images[chosen] = adjust_hue(adjust_saturation(jittered, saturation[chosen]), hue[chosen])
    grey = _coin(images, generator, 0.2).nonzero()[:, 0]
    images[grey] = to_luminance(images[grey]).expand(-1, images.shape[1], -1, -1)
    return images


@augmentation(_matsoukas_colours)
def matsoukas(images: Tensor, generator: Generator) -> Move:
    """M on all data sets (OPT-5): crop of area 0.8-1.2, both flips, colour jitter (p 0.2), grey (p 0.2).

    The jitter is brightness 0.2, contrast 0.2, saturation 0.1, hue 0.1 in this order (torchvision shuffles the order).
    """
    return _cropped(images, generator, (0.8, 1.2), (3 / 4, 4 / 3), mirror=(0.5, 0.5))


@augmentation()
def peng(images: Tensor, generator: Generator) -> Move:
    """P on all 2D sets (OPT-6): random crop and "slight rotation"; sizes stated nowhere: area 0.9-1.0, +-10 degrees."""
    boxes = random_crop_boxes(len(images), (0.9, 1.0), (1.0, 1.0), generator).to(images.device)
    return _boxed(boxes, _uniform(images, -10, 10, generator))


@augmentation(vary_intensity)
def volume(volumes: Tensor, generator: Generator) -> Move:
    """The one set for volumes (in no paper): `(n, C, D, H, W)`.

    Mirrored along each axis (p 0.5 each), turned by up to 10 degrees about a random axis, stretched by up to 5 %,
    shifted by up to 5 % of the side along each axis; then `vary_intensity`. Mirroring makes left of right and
    front of back: not for tasks that tell sides apart, nor parts that lie one in front of the other.
    """
    matrices, shifts = (values.to(volumes.device) for values in draw_moves(len(volumes), generator))
    return lambda batch, mode: move(batch, matrices, shifts, mode)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": none,
    "fundus": fundus,
    "cxr": cxr,
    "chestxray14": chestxray14,
    "imagenet": chestxray14,
    "cifar": cifar,
    "matsoukas": matsoukas,
    "peng": peng,
    "peng-code": chestxray14,
    "volume": volume,
}
FOR_VOLUMES = ("none", "volume")


def check_augmentation(name: str, spatial_dims: int) -> None:
    """Refuse a set of augmentations for images where there are volumes, and the reverse.

    Raises:
        DataError: naming those that fit.
    """
    fitting = [one for one in AUGMENTATIONS if one == "none" or (one in FOR_VOLUMES) == (spatial_dims == 3)]
    if name in AUGMENTATIONS and name not in fitting:
        what = "volumes" if spatial_dims == 3 else "images"
        other = "images" if spatial_dims == 3 else "volumes"
        raise DataError(
            f"The augmentation {name!r} is for {other}, and these are {what}; choices: {', '.join(fitting)}"
        )
