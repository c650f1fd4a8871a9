"""Plain text on the terminal."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def say(console: Console, text: str, style: str | None = None, soft_wrap: bool | None = None) -> None:
    """Print text as it is: names of people's files and arms are no markup."""
    wrap = not console.is_terminal if soft_wrap is None else soft_wrap
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=wrap)


def working(console: Console, text: str) -> AbstractContextManager[object]:
    """Say what takes a while now: on a terminal beside a spinner, until the block ends."""
    if console.is_terminal:
        return console.status(text)
    say(console, text)
    return nullcontext()
