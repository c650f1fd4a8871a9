"""Arrays as pictures inside the page: PNG data in the HTML itself, captioned, described, and never smoothed."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike

from transfuse.errors import DataError

# For the page's style sheet; `image-rendering` stands at each picture too, so that it holds without this.
STYLE = """
.pictures { display: flex; flex-wrap: wrap; gap: 1.25rem 1.5rem; margin: 1rem 0; padding: 0; }
.pictures figure, figure.picture { margin: 0; min-width: 0; max-width: 100%; }
.pictures > figcaption { flex-basis: 100%; font-weight: 650; margin: 0; }
.picture figcaption { margin: .4rem 0 0; font-size: .875rem; font-weight: 400; color: var(--muted); }
.picture img { display: block; max-width: 100%; height: auto; border-radius: .25rem; }
"""


@dataclass(frozen=True)
class Picture:
    """An array with what is said about it.

    Args:
        array: uint8 `(H, W)` grey, `(H, W, 3)` colour, or `(H, W, 4)` colour with opacity.
        caption: below the picture.
        alt: what it shows, for those who do not see it.
    """

    array: np.ndarray
    caption: str
    alt: str


def png_uri(array: ArrayLike) -> str:
    """An array as a `data:` address of a PNG file, without loss.

    Args:
        array: uint8 `(H, W)`, `(H, W, 3)` or `(H, W, 4)`.

    Raises:
        DataError: another shape or kind of number, or no pixel.

    >>> png_uri(np.zeros((2, 2), dtype=np.uint8))[:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(_checked(array)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def figure(picture: Picture, width: int | None = None) -> Markup:
    """One picture as an HTML `<figure>`; all texts are escaped, and nothing is loaded for it.

    Args:
        picture: what to show.
        width: on the page, in CSS pixels; None: small ones enlarged by a whole factor to about 160, others as they are.
            Enlarged pixels stay squares.

    Raises:
        DataError: an array that is no picture, an empty alternative text, or a width below 1.

    >>> print(figure(Picture(np.zeros((2, 2), dtype=np.uint8), "a < b", "two by two")))
    <figure class="picture"><img src="data:image/png;base64,..." alt="two by two" ... width="160" height="160" ...
    """
    array = _checked(picture.array)
    if not picture.alt.strip():
        raise DataError(f"the picture {picture.caption!r} has no alternative text; say in words what it shows")
    if width is not None and width < 1:
        raise DataError(f"width is {width!r}; expected CSS pixels, at least 1")
    rows, columns = array.shape[:2]
    shown = width or columns * max(1, round(160 / columns))
    return Markup(
        '<figure class="picture"><img src="{src}" alt="{alt}" title="{alt}" width="{width}" height="{height}" '
        'style="image-rendering: pixelated"><figcaption>{caption}</figcaption></figure>'
    ).format(
        src=png_uri(array),
        alt=picture.alt,
        width=shown,
        height=max(1, round(shown * rows / columns)),
        caption=picture.caption,
    )


def gallery(pictures: Sequence[Picture], caption: str = "", width: int | None = None) -> Markup:
    """Captioned pictures side by side, as many in a row as the page holds.

    Args:
        pictures: at least one.
        caption: above all of them.
        width: of each picture on the page, in CSS pixels; None: as `figure`.

    Raises:
        DataError: no picture, or one that `figure` refuses.
    """
    if not pictures:
        raise DataError("the gallery has no picture; expected at least one")
    head = Markup("<figcaption>{}</figcaption>").format(caption) if caption else Markup("")
    inner = Markup("\n").join(figure(picture, width) for picture in pictures)
    return Markup('<figure class="pictures" role="group">{}{}</figure>').format(head, inner)


def mosaic(arrays: Sequence[ArrayLike], columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Arrays of one size, as the filters of a layer, side by side in one array; the gaps are transparent.

    Args:
        arrays: uint8, all `(H, W)` or all `(H, W, 3)`.
        columns: how many side by side; None: nearly a square.
        gap: pixels between two of them.

    Returns:
        uint8 `(H', W', 4)`.

    Raises:
        DataError: no array, sizes that differ, a number of columns below 1 or a gap below 0.

    >>> mosaic([np.zeros((3, 3), dtype=np.uint8)] * 4).shape
    (7, 7, 4)
    """
    tiles = [_checked(array) for array in arrays]
    if not tiles:
        raise DataError("there is no array to put together; expected at least one")
    if len({tile.shape for tile in tiles}) > 1:
        shapes = sorted({tile.shape for tile in tiles})
        raise DataError(f"the arrays have shapes {', '.join(map(str, shapes))}; expected one shape for all")
    if (columns is not None and columns < 1) or gap < 0:
        raise DataError(f"columns is {columns!r} and gap {gap!r}; expected at least 1 column and 0 pixels")
    across = min(columns or math.ceil(math.sqrt(len(tiles))), len(tiles))
    down = math.ceil(len(tiles) / across)
    height, width = tiles[0].shape[:2]
    out = np.zeros((down * (height + gap) - gap, across * (width + gap) - gap, 4), dtype=np.uint8)
    for place, tile in enumerate(tiles):
        top, left = (place // across) * (height + gap), (place % across) * (width + gap)
        part = out[top : top + height, left : left + width]
        part[..., 3] = 255
        part[..., : min(4, tile.shape[2]) if tile.ndim == 3 else 3] = tile if tile.ndim == 3 else tile[..., None]
    return out


def shades(values: ArrayLike, low: float, high: float) -> np.ndarray:
    """Numbers as shades, `low` black and `high` white; pictures that are to be compared need the same two.

    Args:
        values: any shape, finite.
        low: drawn as 0, and all below it.
        high: drawn as 255, and all above it.

    Returns:
        uint8 of the same shape.

    Raises:
        DataError: values that are not finite, or low not below high.

    >>> shades([-1.0, 0.0, 1.0], -1, 1).tolist()
    [0, 128, 255]
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise DataError(
            f"{int((~np.isfinite(array)).sum())} of {array.size} values are NaN or infinite; no shade is theirs"
        )
    if not low < high:
        raise DataError(f"the shades begin at {low!r} and end at {high!r}; expected the first below the second")
    return np.rint(np.clip((array - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _checked(array: ArrayLike) -> np.ndarray:
    pixels = np.asarray(array)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise DataError(
            f"a picture has shape {pixels.shape} and dtype {pixels.dtype}; expected uint8 (H, W), (H, W, 3) or "
            "(H, W, 4): channels last, floats through shades()"
        )
    if pixels.size == 0:
        raise DataError(f"a picture has shape {pixels.shape}, so no pixel")
    return np.ascontiguousarray(pixels)
