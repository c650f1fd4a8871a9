"""A synthetic fundus photograph from its layers: pigment, light, camera."""

from __future__ import annotations

import numpy as np

from transfuse.data.canvas import pixel_grid, ramp, smooth_field, to_bytes
from transfuse.data.retina import Anatomy

# What a layer does to the light: the share of red, green and blue that is left at full coverage ...
_DARK = {
    "arteries": (0.92, 0.66, 0.66),
    "veins": (0.76, 0.45, 0.52),
    "microaneurysms": (0.74, 0.36, 0.44),
    "haemorrhages": (0.72, 0.43, 0.50),
    "irma": (0.80, 0.48, 0.54),
    "neovascularisation": (0.82, 0.42, 0.48),
    "preretinal_haemorrhages": (0.50, 0.16, 0.24),
    "specks": (0.74, 0.62, 0.58),
}
# ... or its own colour and its opacity at full coverage.
_BRIGHT = {
    "drusen": ((0.92, 0.70, 0.38), 0.45),
    "reflex": ((0.98, 0.66, 0.42), 0.28),
    "cotton_wool_spots": ((0.97, 0.88, 0.70), 0.62),
    "hard_exudates": ((0.99, 0.87, 0.45), 0.85),
}
_DEEP_TO_NEAR = (
    "drusen", "specks", "arteries", "veins", "reflex", "cotton_wool_spots", "hard_exudates", "microaneurysms",
    "haemorrhages", "irma", "neovascularisation", "preretinal_haemorrhages",
)  # fmt: skip
_VEIL = np.array([0.62, 0.45, 0.33], dtype=np.float32)[:, None, None]
_PALE, _BROWN = np.array([0.88, 0.50, 0.27]), np.array([0.64, 0.30, 0.155])


def draw_disc(anatomy: Anatomy, *, field: float, size: int, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (size, size) of the optic disc and of its cup; `field` is the retina's radius over half the picture."""
    right, down = pixel_grid(size)
    x, y, a, b = anatomy.disc * field
    distance = np.hypot((right - (-x if mirror else x)) / a, (down - y) / b)
    soft = max(0.08, 1.0 / (a * size / 2))
    disc = 1.0 - ramp(distance, 1.0 - soft, 1.0 + soft)
    cup = 1.0 - ramp(distance, anatomy.cup - 0.2, anatomy.cup + 0.25)
    return disc, cup


def photograph(
    anatomy: Anatomy,
    layers: dict[str, np.ndarray],
    *,
    field: float,
    mirror: bool,
    camera: np.random.Generator,
    light: np.random.Generator,
    noise: np.random.Generator,
) -> np.ndarray:
    """The photograph, (3, size, size) uint8.

    Args:
        anatomy: disc, fovea and pigment.
        layers: coverage by name, with "disc" and "cup" beside those of `draw_layers`.
        field: the retina's radius over half the picture.
        mirror: a left eye.
        camera: what both photographs of a patient share: exposure, colour, vignetting, grain.
        light: uneven illumination and the retina's mottle.
        noise: the grain of this photograph.
    """
    size = len(layers["disc"])
    right, down = pixel_grid(size)
    warmth, gain, falloff = camera.normal(0, 0.035), camera.uniform(0.92, 1.1), camera.uniform(0.18, 0.42)
    mottle = smooth_field(light, 26, size)[0] * 0.016 + smooth_field(light, 60, size)[0] * 0.022
    uneven = smooth_field(light, 4, size)[0] * 0.05
    choroid = smooth_field(light, 12, size, fields=2) * 0.022
    shift = light.normal(0, 0.15, 2)
    colour = _PALE + anatomy.pigment * (_BROWN - _PALE) + warmth * np.array([0.5, 0.1, -0.5])
    image = colour.astype(np.float32)[:, None, None] * (1.0 + mottle)
    image[0] *= 1.0 + choroid[0]
    image[1:] *= 1.0 + choroid[0] + choroid[1]

    fx, fy = anatomy.fovea * field
    from_fovea = ((right - (-fx if mirror else fx)) ** 2 + (down - fy) ** 2) / field**2
    pit = 0.30 * np.exp(-from_fovea / (2 * 0.13**2)) + 0.12 * np.exp(-from_fovea / (2 * 0.035**2))
    _darken(image, pit, (0.25, 0.0, 0.1))
    _brighten(image, layers["disc"], (0.97, 0.74, 0.45), 0.80)
    _brighten(image, layers["cup"], (1.0, 0.90, 0.68), 0.70)
    for name in _DEEP_TO_NEAR:
        if not layers[name].any():
            continue
        if name in _BRIGHT:
            _brighten(image, layers[name], *_BRIGHT[name])
        else:
            _darken(image, layers[name], _DARK[name])

    distance = np.hypot(right, down) / field
    off_axis = ((right - shift[0]) ** 2 + (down - shift[1]) ** 2) / field**2
    image *= gain * (1.0 + uneven) * (1.08 - falloff * off_axis)
    haze = 0.4 * camera.random() ** 3  # of lens and vitreous: a veil that takes contrast
    image += np.float32(haze) * (_VEIL - image)
    image *= np.clip((1.0 - distance) * (field * size / 2) + 0.5, 0.0, 1.0)
    grain = noise.standard_normal((3, size, size), dtype=np.float32)
    return to_bytes(image + grain * np.float32(camera.uniform(0.008, 0.024)) * (0.3 + image))


def _darken(image: np.ndarray, cover: np.ndarray, left: tuple[float, float, float]) -> None:
    for channel, share in enumerate(left):
        image[channel] *= 1.0 - cover * np.float32(1.0 - share)


def _brighten(image: np.ndarray, cover: np.ndarray, colour: tuple[float, float, float], opacity: float) -> None:
    cover = cover * np.float32(opacity)
    for channel, value in enumerate(colour):
        image[channel] += cover * (np.float32(value) - image[channel])
