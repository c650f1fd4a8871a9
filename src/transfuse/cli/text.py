"""Plain text on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def say(console: Console, text: str, style: str | None = None, soft_wrap: bool | None = None) -> None:
    """Print text as it is: names of people's files and arms are no markup."""
    wrap = not console.is_terminal if soft_wrap is None else soft_wrap
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=wrap)
