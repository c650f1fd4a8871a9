"""How a part of a study file refuses: unknown keys, wrong types, and what cannot be meant."""

from __future__ import annotations

from transfuse.errors import SpecError

STRICT = {"extra": "forbid", "strict": True}
"""As `__pydantic_config__`: no unknown keys, and no value turned into another type."""


def refuse(problems: list[str]) -> None:
    """Raise all the problems at once, if there are any."""
    if problems:
        raise SpecError(problems)
