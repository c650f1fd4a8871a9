from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from transfuse.data.images import decode, inspect_image, to_channels, to_pixels, to_square, white_level
from transfuse.errors import DataError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.fixture
def grey(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (9, 11), dtype=np.uint8)


@pytest.fixture
def colour(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_grey_and_colour_are_kept(grey: np.ndarray, colour: np.ndarray, kind: str) -> None:
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey), kind)), grey)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(colour), kind)), colour)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_neither_clipped_nor_wrapped(kind: str) -> None:
    deep = np.array([[0, 255, 256], [4095, 40000, 65535]], np.uint16)
    data = encoded(Image.fromarray(deep), kind)
    assert inspect_image(data).bits == 16
    assert decode(data).dtype == np.uint16
    np.testing.assert_array_equal(decode(data), deep)


def test_wide_integers_within_sixteen_bits_are_kept_and_others_refused() -> None:
    fine = encoded(Image.fromarray(np.array([[0, 65535]], np.int32)), "TIFF")
    np.testing.assert_array_equal(decode(fine), [[0, 65535]])
    hounsfield = encoded(Image.fromarray(np.array([[-1024, 3071]], np.int32)), "TIFF")
    with pytest.raises(DataError, match=r"values from -1024 to 3071; rescale them to 0\.\.65535"):
        decode(hounsfield)


def test_floating_point_images() -> None:
    fine = encoded(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF")
    np.testing.assert_array_equal(decode(fine), [[0, 32768, 65535]])
    for values in ([[0, 2.5]], [[-0.1, 1]], [[0, np.nan]]):
        with pytest.raises(DataError, match=r"floating-point values from .*; rescale them to \[0, 1\]"):
            decode(encoded(Image.fromarray(np.array(values, np.float32)), "TIFF"))


def test_transparency_is_put_on_black(colour: np.ndarray) -> None:
    alpha = np.zeros((9, 11, 1), np.uint8)
    alpha[:, :5] = 255
    data = encoded(Image.fromarray(np.concatenate([colour, alpha], axis=2)))
    assert inspect_image(data).alpha
    decoded = decode(data)
    np.testing.assert_array_equal(decoded[:, :5], colour[:, :5])
    assert not decoded[:, 5:].any()


def test_grey_with_alpha_stays_grey(grey: np.ndarray) -> None:
    image = Image.fromarray(grey).convert("LA")
    assert inspect_image(encoded(image)).channels == 1
    np.testing.assert_array_equal(decode(encoded(image)), grey)


def test_one_bit_palette_and_cmyk(grey: np.ndarray, colour: np.ndarray) -> None:
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey > 127))), np.where(grey > 127, 255, 0))
    palette = Image.fromarray(colour).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette)), np.asarray(palette.convert("RGB")))
    assert decode(encoded(Image.fromarray(colour).convert("CMYK"), "TIFF")).shape == (9, 11, 3)


def test_orientation_is_applied(grey: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    data = encoded(Image.fromarray(grey), exif=exif)
    np.testing.assert_array_equal(decode(data), np.rot90(grey, -1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF"])
def test_images_cut_short_anywhere_are_data_errors(kind: str, rng: np.random.Generator) -> None:
    data = encoded(Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)), kind)
    for length in range(0, len(data) - 40, 37):
        with pytest.raises(DataError, match=r"cannot be decoded|is not an image"):
            decode(data[:length])


def test_other_bytes_and_several_frames(grey: np.ndarray) -> None:
    for function in (decode, inspect_image):
        with pytest.raises(DataError, match="is not an image that Pillow can read"):
            function(b"not an image")
    frames = encoded(Image.fromarray(grey), "TIFF", save_all=True, append_images=[Image.fromarray(grey)] * 2)
    with pytest.raises(DataError, match="holds 3 frames; save one image a file"):
        inspect_image(frames)


def test_sixteen_bit_colour_is_noticed() -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + np.full(12, 0x1234, ">u2").tobytes() for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert inspect_image(data).reduced
    assert (decode(data) == 0x12).all()


def test_luminance_is_pillows(colour: np.ndarray) -> None:
    np.testing.assert_array_equal(to_channels(colour, 1)[0], np.asarray(Image.fromarray(colour).convert("L")))
    np.testing.assert_array_equal(to_channels(colour, 3), colour.transpose(2, 0, 1))


def test_fits(rng: np.random.Generator) -> None:
    image = rng.integers(1, 256, (6, 10), dtype=np.uint8)
    np.testing.assert_array_equal(to_square(image, 6, "crop"), image[:, 2:8])
    padded = to_square(image, 10, "pad")
    np.testing.assert_array_equal(padded[2:8], image)
    assert not padded[:2].any()
    assert not padded[8:].any()
    assert to_square(image, 8, "squash").shape == (8, 8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 3)])
def test_resizing_keeps_mean_and_range_and_does_not_alias(dtype: type, shape: tuple[int, ...]) -> None:
    top = np.iinfo(dtype).max
    stripes = np.zeros(shape, dtype)
    stripes[::2] = top  # aliases to all black or all white without a low-pass filter
    small = to_square(stripes, 16, "crop")
    assert small.dtype == dtype
    assert small.shape[:2] == (16, 16)
    np.testing.assert_allclose(small[2:-2], top / 2, atol=0.05 * top)
    np.testing.assert_array_equal(to_square(np.full(shape, top, dtype), 100, "crop"), top)


def test_deep_and_shallow_resizing_agree(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (50, 50), dtype=np.uint8)
    deep = to_square(image.astype(np.uint16) * 257, 20, "crop")
    np.testing.assert_allclose(deep / 257, to_square(image, 20, "crop"), atol=1.0)


def test_eight_bits_among_twelve_are_stretched() -> None:
    pixels = to_pixels(np.array([[0, 255]] * 2, np.uint8), size=2, channels=1, fit="crop", white=4095)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels[0], [[0, 4095]] * 2)


def test_white_is_the_next_depth() -> None:
    assert [white_level(v) for v in (0, 255, 256, 1023, 1024, 4095, 4096, 16383, 16384, 65535)] == [
        255, 255, 1023, 1023, 4095, 4095, 16383, 16383, 65535, 65535,
    ]  # fmt: skip
