"""One colour and one dash pattern an arm, the same in every chart and table, and told apart by colour-blind eyes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# After Okabe and Ito (2008), darkened or lightened until each keeps 3:1 against its page. The first is the baseline's.
LIGHT = ("#6b7280", "#0072b2", "#c8501a", "#008060", "#a3478f", "#9a7400", "#2b8cc4", "#7a5c3e")
DARK = ("#a7adb8", "#5ab4f0", "#ff9159", "#3fd0a4", "#eb9fd0", "#f0c64c", "#a5d8f7", "#d9b48c")
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3), (12, 4))


class Style(NamedTuple):
    """How an arm is drawn: a place in the palette and a dash pattern in pixels."""

    place: int
    dash: tuple[int, ...]

    def colour(self, palette: tuple[str, ...]) -> str:
        """This arm's colour in a palette of `len(LIGHT)` colours."""
        return palette[self.place]


# Colours of a page that follows the reader's choice of light or dark: CSS variables, resolved by the browser.
PAGE = tuple(f"var(--arm-{place})" for place in range(len(LIGHT)))


def arm_styles(arms: Iterable[str], baseline: str = "") -> dict[str, Style]:
    """The style of each arm: the baseline is grey, the others take the colours in turn, then the dash patterns.

    >>> styles = arm_styles(["pretrained", "random"], baseline="random")
    >>> styles["random"].place, styles["pretrained"].place
    (0, 1)
    """
    names = list(dict.fromkeys(arms))
    styles = {}
    free = len(LIGHT) - 1
    for count, name in enumerate(name for name in names if name != baseline):
        styles[name] = Style(1 + count % free, DASHES[(count // free) % len(DASHES)])
    if baseline in names:
        styles[baseline] = Style(0, DASHES[0])
    return {name: styles[name] for name in names}
