"""How the learning rate of each arm is chosen before anything is compared."""

from __future__ import annotations

from dataclasses import dataclass

from transfuse.specs.refuse import STRICT, refuse


@dataclass(frozen=True, kw_only=True)
class TuneSpec:
    """A small grid of learning rates, of which each arm of each network gets the best on validation data.

    Every arm is trained at every rate with the first seeds of the study; what is chosen is trained with all of them,
    so one of the trials is never done twice. The test part is not looked at. An arm that has a `learning_rate` of its
    own keeps it.

    Attributes:
        learning_rates: two or more.
        seeds: how many of the study's seeds a rate is tried with; the mean of their best validation values counts.
    """

    __pydantic_config__ = STRICT
    learning_rates: tuple[float, ...]
    seeds: int = 1

    def __post_init__(self) -> None:
        problems = []
        if len(set(self.learning_rates)) < 2 or len(set(self.learning_rates)) < len(self.learning_rates):
            problems.append(
                f"learning_rates are {list(self.learning_rates)}; expected two or more different ones, e.g. "
                "[1e-4, 3e-4, 1e-3]"
            )
        if any(not 0 < rate < float("inf") for rate in self.learning_rates):
            problems.append(f"learning_rates are {list(self.learning_rates)}; expected positive numbers")
        if self.seeds < 1:
            problems.append(f"seeds is {self.seeds}; expected 1 or more of the study's seeds")
        refuse(problems)
