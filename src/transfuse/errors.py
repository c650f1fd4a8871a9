"""The exceptions that transfuse raises on purpose.

::

    TransfuseError              catch this one to catch them all
    ├── SpecError               a study file or an argument that cannot be meant (lists every problem at once)
    ├── DataError               images, labels or tables that cannot be used as they are
    ├── BlocksError             a network that cannot be cut into an ordered list of blocks as asked
    ├── TransferError           weights that do not fit the network they are meant for
    ├── TrainingError           a training that cannot go on (the record says where and why)
    ├── AnalysisError           a number that cannot be had from these activations, weights or networks
    ├── StoreError              a results folder that cannot be read or written
    └── ExtraNotInstalled       an optional dependency is missing (the message holds the install command)

AnalysisWarning, a UserWarning, stands beside a number that may mislead: too few samples, batches left out.

Every message names the offending value, what was expected, the nearest valid choice and the cure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class TransfuseError(Exception):
    """Base of every exception that transfuse raises on purpose."""


class SpecError(TransfuseError, ValueError):
    """A study file or an argument that cannot be meant.

    Args:
        problems: one sentence a problem; all of them are shown at once.
        where: the file or the call in which they were found.
    """

    def __init__(self, problems: str | Sequence[str], where: str = "") -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        self.where = where
        super().__init__(self.problems, where)

    def __str__(self) -> str:
        if len(self.problems) == 1 and not self.where:
            return self.problems[0]
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        heading = f"{self.where}: {count}" if self.where else count
        return "\n".join([heading, *(f"  - {problem}" for problem in self.problems)])


class DataError(TransfuseError):
    """Images, labels or tables that cannot be used as they are."""


class BlocksError(TransfuseError):
    """A network that cannot be cut into an ordered list of blocks as asked."""


class TransferError(TransfuseError):
    """Weights that do not fit the network they are meant for."""


class TrainingError(TransfuseError):
    """A training that cannot go on."""


class AnalysisError(TransfuseError, ValueError):
    """A number that cannot be had from these activations, weights or networks."""


class AnalysisWarning(UserWarning):
    """A number that may mislead, and why."""


class StoreError(TransfuseError):
    """A results folder that cannot be read or written."""


class ExtraNotInstalled(TransfuseError):
    """An optional dependency is missing.

    >>> print(ExtraNotInstalled("medmnist", needed_for="fetching MedMNIST sets", extra="medmnist"))
    The package 'medmnist' is needed for fetching MedMNIST sets and is not installed: pip install 'transfuse[medmnist]'
    """

    def __init__(self, package: str, *, needed_for: str, extra: str) -> None:
        self.package, self.needed_for, self.extra = package, needed_for, extra
        super().__init__(package)

    def __str__(self) -> str:
        return (
            f"The package {self.package!r} is needed for {self.needed_for} and is not installed: "
            f"pip install 'transfuse[{self.extra}]'"
        )


def nearest(name: object, choices: Iterable[object], *, most: int = 24) -> str:
    """The end of a message about an unknown name: the nearest choice first, then the choices.

    >>> nearest("densnet", ["densenet121", "resnet50"])
    "did you mean 'densenet121'? Choices: densenet121, resnet50"
    >>> nearest("AUROC", ["auroc", "auprc"])
    "did you mean 'auroc'? Choices: auroc, auprc"
    """
    names = [str(choice) for choice in choices]
    if not names:
        return "there are none"
    lower = {choice.casefold(): choice for choice in reversed(names)}
    close = [lower[one] for one in difflib.get_close_matches(str(name).casefold(), lower, n=1, cutoff=0.55)]
    shown = ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
    return (f"did you mean {close[0]!r}? " if close else "") + f"Choices: {shown}"
