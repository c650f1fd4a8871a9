from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from transfuse.errors import DataError
from transfuse.report.pictures import Picture, figure, gallery, mosaic, png_uri, shades

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)
COLOUR = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)


def decoded(uri: str) -> np.ndarray:
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("array", [GREY, COLOUR, GREY.T, COLOUR[:, ::-1], mosaic([GREY])], ids=str)
def test_a_picture_comes_back_bit_by_bit(array: np.ndarray) -> None:
    np.testing.assert_array_equal(decoded(png_uri(array)), array)


@pytest.mark.parametrize(
    "array",
    [
        GREY.astype(float),
        GREY.astype(bool),
        np.zeros((3, 4, 4), dtype=np.int64),
        np.zeros((3, 8, 8), dtype=np.uint8),
        np.zeros((2, 3, 4, 3), dtype=np.uint8),
    ],
)
def test_what_is_no_picture_is_refused_with_its_shape_and_kind(array: np.ndarray) -> None:
    with pytest.raises(DataError, match=re.escape(f"shape {array.shape} and dtype {array.dtype}; expected uint8")):
        png_uri(array)


def test_a_picture_without_a_pixel_is_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(0, 4\), so no pixel"):
        png_uri(GREY[:0])


def test_a_figure_says_what_it_shows_and_keeps_its_pixels() -> None:
    text = figure(Picture(GREY, "Filter 3 & <4>", 'a "dark" filter'), width=80)
    (_, box), (_, image), (_, _) = Tags(text).found
    assert box["class"] == "picture"
    assert image["alt"] == 'a "dark" filter'
    assert (image["width"], image["height"]) == ("80", "60")
    assert "image-rendering: pixelated" in str(image["style"])
    np.testing.assert_array_equal(decoded(str(image["src"])), GREY)
    assert "<figcaption>Filter 3 &amp; &lt;4&gt;</figcaption>" in text


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    def width(array: np.ndarray) -> int:
        return int(str(dict(Tags(figure(Picture(array, "", "x"))).found)["img"]["width"]))

    assert width(np.zeros((7, 7), dtype=np.uint8)) == 7 * 23
    assert width(np.zeros((9, 400), dtype=np.uint8)) == 400


@pytest.mark.parametrize("bad", ["<script>alert(1)</script>", '"><img src="https://example.org">', "a & b"])
def test_no_text_gets_into_the_page_as_markup_and_nothing_is_requested(bad: str) -> None:
    text = gallery([Picture(GREY, bad, bad)] * 2, caption=bad)
    tags = Tags(text).found
    names = [tag for tag, _ in tags]
    assert names == ["figure", "figcaption", *["figure", "img", "figcaption"] * 2]
    addresses = [value for _, attributes in tags for key, value in attributes.items() if key in ("src", "href")]
    assert all(str(address).startswith("data:image/png;base64,") for address in addresses)
    assert len(addresses) == 2


def test_a_template_does_not_escape_the_markup_again() -> None:
    import jinja2

    shown = jinja2.Environment(autoescape=True).from_string("{{ page }}").render(page=figure(Picture(GREY, "a<b", "x")))
    assert shown.startswith('<figure class="picture">')
    assert "a&lt;b" in shown


def test_pictures_refuse_what_nobody_can_read() -> None:
    with pytest.raises(DataError, match="'map' has no alternative text"):
        figure(Picture(GREY, "map", " "))
    with pytest.raises(DataError, match="width is 0"):
        figure(Picture(GREY, "map", "a map"), width=0)
    with pytest.raises(DataError, match="the gallery has no picture"):
        gallery([])


def test_a_mosaic_holds_every_tile_in_order_and_clear_gaps() -> None:
    tiles = [np.full((2, 3), value, dtype=np.uint8) for value in range(5)]
    out = mosaic(tiles, columns=2, gap=1)
    assert out.shape == (3 * 3 - 1, 2 * 4 - 1, 4)
    for place, tile in enumerate(tiles):
        top, left = 3 * (place // 2), 4 * (place % 2)
        part = out[top : top + 2, left : left + 3]
        np.testing.assert_array_equal(part[..., 0], tile)
        assert (part[..., 3] == 255).all()
    assert (out[..., 3] == 255).sum() == 5 * 6
    coloured = mosaic([COLOUR] * 3, gap=0)
    np.testing.assert_array_equal(coloured[:5, 4:8, :3], COLOUR)
    assert mosaic([GREY] * 64).shape == (8 * 4 - 1, 8 * 5 - 1, 4)


def test_a_mosaic_refuses() -> None:
    with pytest.raises(DataError, match=r"shapes \(3, 4\), \(4, 3\); expected one"):
        mosaic([GREY, GREY.T])
    with pytest.raises(DataError, match="no array to put together"):
        mosaic([])
    with pytest.raises(DataError, match="columns is 0"):
        mosaic([GREY], columns=0)
    with pytest.raises(DataError, match="gap -1"):
        mosaic([GREY], gap=-1)


def test_shades_are_the_same_for_the_same_numbers() -> None:
    assert shades([[-2, -1], [0.5, 9]], -1, 1).tolist() == [[0, 0], [191, 255]]
    assert shades(np.zeros((2, 2)), -1, 1).dtype == np.uint8
    with pytest.raises(DataError, match="1 of 2 values are NaN"):
        shades([np.nan, 1], 0, 1)
    with pytest.raises(DataError, match=r"begin at 1 and end at 1"):
        shades([0, 1], 1, 1)
