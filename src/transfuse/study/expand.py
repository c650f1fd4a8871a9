"""From a study to its runs: a pure function of the study and two look-ups, of fingerprints and hashes of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transfuse.specs import DataSpec, InitSpec, ModelSpec, RunSpec, TrainSpec
from transfuse.study.sweeps import Unfolded


@dataclass(frozen=True)
class PlannedRun:
    """A run and what this study calls it.

    Attributes:
        spec: the resolved run.
        run_id: its identity.
        model: the network's label in the study.
        arm: the arm's name, or the source's for a source run.
        role: `arm` or `source`.
        needs: the run whose weights this one starts from, if any.
    """

    spec: RunSpec
    run_id: str
    model: str
    arm: str
    role: str
    needs: str | None = None

    @property
    def title(self) -> str:
        """How a person recognises the run."""
        what = f"source {self.arm}" if self.role == "source" else self.arm
        return f"{self.model} · {what} · seed {self.spec.seed}"

    def row(self) -> dict[str, Any]:
        """The names of the run, as columns of the study's tables."""
        return {
            "run_id": self.run_id,
            "model": self.model,
            "arm": self.arm,
            "seed": self.spec.seed,
            "role": self.role,
            "network": self.spec.model.name,
            "weights": self.spec.model.weights if self.spec.init.uses_weights else None,
            "source_run": self.spec.source_run,
        }


def expand(
    unfolded: Unfolded, fingerprint: Callable[[DataSpec], str], weights_sha256: Callable[[str, str | None], str]
) -> list[PlannedRun]:
    """List every run of a study, sources first.

    Args:
        unfolded: the study, with one arm for each block where it says `every`.
        fingerprint: gives the fingerprint of a data set.
        weights_sha256: gives the SHA-256 of a weights file by its name and the data's root.

    Returns:
        One planned run for each source and network, and for each network, arm and seed.
    """
    study = unfolded.study
    sources: list[PlannedRun] = []

    def plan(
        data: DataSpec, model: ModelSpec, init: InitSpec, train: TrainSpec, seed: int, names: tuple[str, str, str]
    ) -> PlannedRun:
        label, arm, role = names
        sha = needs = None
        if not init.uses_weights:
            model = replace(model, weights=None)
        elif (model.weights or "").startswith("run:"):
            needs = source_of(label, model)
        elif model.weights is not None:
            sha = weights_sha256(model.weights, data.root)
        spec = RunSpec(
            data=data,
            model=model,
            init=replace(init, weights=None, learning_rate=None, layer_decay=None, l2_sp=None),
            train=_with_own_rates(train, init),
            seed=seed,
            monitor=train.monitor or study.metric if role == "arm" else train.monitor or "loss",
            fingerprint=fingerprint(data),
            weights_sha256=sha,
            source_run=needs,
        )
        return PlannedRun(spec, spec.run_id, label, arm, role, needs)

    def source_of(label: str, model: ModelSpec) -> str:
        name = (model.weights or "").removeprefix("run:")
        source = study.sources[name]
        # The network as the study names it: a source that starts from another source asks for that one by itself.
        own = study.source_model(name, study.models[label])
        run = plan(study.source_data(name), own, source.init, source.train, source.seed, (label, name, "source"))
        if run not in sources:
            sources.append(run)
        return run.run_id

    arms = [
        plan(
            study.data,
            replace(model, weights=study.arms[arm].weights or model.weights),
            study.arms[arm],
            study.train,
            seed,
            (label, arm, "arm"),
        )
        for label, model in study.models.items()
        for arm in unfolded.arms[label]
        for seed in study.seed_list
    ]
    return sources + arms


_OF_THE_OPTIMIZER = ("learning_rate", "layer_decay", "l2_sp")


def _with_own_rates(train: TrainSpec, init: InitSpec) -> TrainSpec:
    """The training's settings with those of the arm's own, so that one training has one identity."""
    own = {name: value for name in _OF_THE_OPTIMIZER if (value := getattr(init, name)) is not None}
    return replace(train, optimizer=replace(train.optimizer, **own)) if own else train


def without_repeats(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs to be done: arms that come to the same run share it."""
    return list({run.run_id: run for run in reversed(runs)}.values())[::-1]
