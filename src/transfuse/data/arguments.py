"""The arguments of `open_dataset`: which cannot be meant, and what `normalise` stands for."""

from __future__ import annotations

from collections.abc import Sequence

from transfuse.data.chasedb1 import NAME as CHASEDB1
from transfuse.data.chasedb1 import OBSERVERS
from transfuse.data.images import FITS
from transfuse.data.table import BLANK, UNCERTAIN
from transfuse.errors import SpecError, nearest

# Mean and standard deviation by name; for one channel the mean over the three colours, as timm does.
_NORMALISATIONS = {
    ("imagenet", 3): ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("imagenet", 1): ((0.449,), (0.226,)),
    ("half", 3): ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ("half", 1): ((0.5,), (0.5,)),
}


def check_arguments(
    size: int, channels: int | None, count: int | None, bad_images: str, normalise: object, fit: str,
    uncertain_labels: str, blank_labels: str, window: object,
) -> None:  # fmt: skip
    """Refuse values that no data set could be opened with; arguments as of `open_dataset`.

    Raises:
        SpecError: all of them at once.
    """
    problems = []
    if not isinstance(size, int) or isinstance(size, bool) or not 8 <= size <= 4096:
        problems.append(f"size={size!r}: expected a number of pixels from 8 to 4096")
    if channels not in (None, 1, 3):
        problems.append(f"channels={channels!r}: expected 1, 3, or None for what the images have")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        problems.append(f"count={count!r}: expected a number of samples, at least 1")
    if bad_images not in ("raise", "exclude"):
        problems.append(f"bad_images={bad_images!r}: {nearest(bad_images, ('raise', 'exclude'))}")
    if uncertain_labels not in UNCERTAIN:
        problems.append(f"uncertain_labels={uncertain_labels!r}: {nearest(uncertain_labels, UNCERTAIN)}")
    if blank_labels not in BLANK:
        problems.append(f"blank_labels={blank_labels!r}: {nearest(blank_labels, BLANK)}")
    if fit not in FITS:
        problems.append(f"fit={fit!r}: {nearest(fit, FITS)}")
    if isinstance(normalise, str) and normalise not in ("imagenet", "half"):
        problems.append(
            f"normalise={normalise!r}: {nearest(normalise, ('imagenet', 'half'))}, or (means, standard deviations)"
        )
    if window is not None and not (isinstance(window, tuple) and len(window) == 2 and window[0] < window[1]):
        problems.append(f"window={window!r}: expected two values, the lower first")
    if problems:
        raise SpecError(problems, "open_dataset")


def check_observer(observer: str | None, name: str) -> None:
    """Refuse an observer of a data set that has one kind of masks, and an unknown one; SpecError names the cure."""
    if observer is None:
        return
    if name != CHASEDB1:
        raise SpecError(f"observer={observer!r}: {name!r} has masks of one kind; only {CHASEDB1!r} has two observers")
    if observer not in OBSERVERS:
        raise SpecError(f"observer={observer!r}: {nearest(observer, OBSERVERS)}")


def refuse_columns(columns: Sequence[str | None], name: str, what: str) -> None:
    """Refuse columns (those that are given) of `name`, which is no table but `what`; SpecError names the cure."""
    named = [column for column in columns if column]
    if named:
        raise SpecError(
            f"{name!r} is {what} and has no columns ({', '.join(named)}). Cure: a .csv table with these "
            "columns, or no column names."
        )


def normalisation_of(
    normalise: str | tuple[Sequence[float], Sequence[float]], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of each channel, by the name of the two or as given.

    Raises:
        SpecError: not one of each for every channel.

    >>> normalisation_of("half", 1)
    ((0.5,), (0.5,))
    """
    if isinstance(normalise, str):
        return _NORMALISATIONS[normalise, channels]
    mean, std = (tuple(float(value) for value in values) for values in normalise)
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise SpecError(
            f"normalise={normalise!r}: expected {channels} mean(s) and {channels} positive standard "
            f"deviation(s) for {channels} channel(s)"
        )
    return mean, std
