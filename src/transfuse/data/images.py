"""Decode image files without losing depth and bring them to one size: squares of 8 or 16 bits, one or three channels.

What happens to what Pillow knows:

==============================  ==============================================================================
8-bit grey, RGB                 kept
1-bit                           0 and 255
palette                         RGB
alpha (RGBA, LA, palette)       put on black, then dropped (the data set's notes count such images)
CMYK, YCbCr, LAB, HSV           RGB
16-bit grey                     kept at 16 bits: never clipped, never wrapped
32-bit integers                 kept if they lie in 0..65535, otherwise an error that says to rescale
floating point                  kept at 16 bits if they lie in [0, 1], otherwise an error that says to rescale
EXIF orientation                applied
several frames                  an error: one file is one sample
==============================  ==============================================================================

Pillow itself reads colour images of 16 bits a channel at 8 bits; `inspect_image` tells, so that it can be said.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from transfuse.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm")
FITS = ("crop", "pad", "squash")
# What Pillow's decoders raise on broken files, found by cutting files of every format at random places.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    UserWarning,  # how Pillow speaks of damaged metadata, where warnings are errors
)


class ImageFacts(NamedTuple):
    """What the header of an image says: size in pixels as stored, channels (1 or 3), bits a value, oddities."""

    height: int
    width: int
    channels: int
    bits: int
    alpha: bool
    reduced: bool  # 16-bit colour, which Pillow reads at 8 bits


def inspect_image(data: bytes) -> ImageFacts:
    """What the header of an encoded image says, without decoding its pixels; DataError if it is no image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise DataError(f"holds {frames} frames; save one image a file")
            width, height = image.size
            alpha = image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info
            grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
            bits = 16 if image.mode == "F" or image.mode.startswith("I") else 8
            png16 = image.format == "PNG" and len(data) > 25 and data[24] == 16
            return ImageFacts(height, width, 1 if grey else 3, bits, alpha, png16 and bits == 8)
    except BROKEN as error:
        raise DataError(reason_of(error)) from None


def decode(data: bytes) -> np.ndarray:
    """The pixels of an encoded image, `(H, W)` or `(H, W, 3)`, uint8 or uint16, by the table above.

    Raises:
        DataError: the bytes are no image, the image is cut short, or its values do not fit 16 bits.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return _pixels(ImageOps.exif_transpose(image))
    except BROKEN as error:
        raise DataError(reason_of(error)) from None


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"has values from {values.min()} to {values.max()}; rescale them to 0..65535")
        return values.astype(np.uint16)
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise DataError(
                f"has floating-point values from {values.min():g} to {values.max():g}; rescale them to [0, 1]"
            )
        return np.rint(values * np.float32(65535)).astype(np.uint16)
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        image = image.convert("RGB")
        return np.asarray(image)[..., 0].copy() if grey else np.asarray(image).copy()
    return np.asarray(image.convert("L" if grey else "RGB")).copy()


def reason_of(error: Exception) -> str:
    """Why an image cannot be decoded, in words."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "is not an image that Pillow can read"
    return f"cannot be decoded ({str(error).strip() or type(error).__name__})"


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """`(H, W)` or `(H, W, 3)` -> `(channels, H, W)`: grey is repeated, colour becomes ITU-R 601 luminance.

    >>> to_channels(np.full((2, 2), 7, np.uint8), 3).shape
    (3, 2, 2)
    """
    if image.ndim == 2:
        return np.repeat(image[None], channels, axis=0)
    if channels == 3:
        return image.transpose(2, 0, 1)
    red, green, blue = image.astype(np.uint32).transpose(2, 0, 1)
    luminance = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16  # Pillow's weights: they add up to 2**16
    return luminance.astype(image.dtype)[None]


def to_square(image: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Bring an image to `size` x `size` with antialiased bilinear resampling (values never leave their range).

    Args:
        image: `(H, W)` or `(H, W, 3)`, uint8 or uint16.
        size: pixels a side.
        fit: "crop" keeps the largest central square, "pad" adds black, "squash" ignores the aspect ratio.
    """
    image = square(image, fit)
    if image.shape[:2] == (size, size):
        return image
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    planes = [
        np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))
        for plane in np.atleast_3d(image).astype(np.float32).transpose(2, 0, 1)
    ]
    resized = np.rint(np.stack(planes, axis=-1)).astype(image.dtype)
    return resized[..., 0] if image.ndim == 2 else resized


def square(image: np.ndarray, fit: str) -> np.ndarray:
    """The part of an image `(H, W, ...)` that `to_square` resizes: cropped or padded to a square, or as it is."""
    height, width = image.shape[:2]
    if fit == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return image[top : top + side, left : left + side]
    if fit == "pad" and height != width:
        side = max(height, width)
        canvas = np.zeros((side, side, *image.shape[2:]), image.dtype)
        top, left = (side - height) // 2, (side - width) // 2
        canvas[top : top + height, left : left + width] = image
        return canvas
    return image


def to_pixels(image: np.ndarray, *, size: int, channels: int, fit: str, white: int) -> np.ndarray:
    """One decoded image as it is stored: `(channels, size, size)`, uint8 if white is 255, else uint16.

    Args:
        white: the value that becomes 1.0; images of 8 bits among images of more are stretched to it.
    """
    pixels = to_channels(to_square(image, size, fit), channels)
    if white == 255:
        return pixels.astype(np.uint8, copy=False)
    if image.dtype == np.uint8:
        return np.rint(pixels.astype(np.float32) * (white / 255)).astype(np.uint16)
    return pixels.astype(np.uint16, copy=False)


def white_level(maximum: int) -> int:
    """The value of white for images whose largest value is `maximum`: 8, 10, 12, 14 or 16 bits.

    Medical 16-bit files often hold 12 bits; divided by 65535 they would all be nearly black.

    >>> white_level(200), white_level(3071), white_level(40000)
    (255, 4095, 65535)
    """
    return next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if maximum < 2**bits)


def dark_note(maxima: Sequence[int], names: Sequence[str] = ()) -> tuple[str, ...]:
    """The sentence to show where a few images set a white level that leaves the others nearly black.

    White follows from the largest value of all images, so that nothing is ever clipped: a lower level would have to
    guess which bright pixels are damage and which are findings. So the images stay as they are, and the sentence names
    those whose values ask for a higher white than that of the median image.

    Args:
        maxima: the largest value of each image of 16 bits.
        names: their names, in the same order.

    >>> dark_note([3000, 3000, 65535], ["a", "b", "c"])[0][:70]
    'Most images are nearly black: the median of their largest values is 30'
    """
    white, median = white_level(max(maxima)), float(np.median(maxima))
    if white == 255 or median >= white / 4:
        return ()
    bright = [i for i, value in enumerate(maxima) if value > white_level(int(median))]
    shown = "; ".join(f"{names[i] if names else f'image {i}'}: {maxima[i]}" for i in bright[:3])
    sentence = (
        f"Most images are nearly black: the median of their largest values is {median:.0f}, less than a quarter of "
        f"{white}, which counts as white because {len(bright)} of {len(maxima)} images have values above "
        f"{white_level(int(median))} ({shown}{'; ...' if len(bright) > 3 else ''}). Cure: where these are damaged, "
        "mend them or leave them out; otherwise rescale the images to one range."
    )
    return (sentence,)
