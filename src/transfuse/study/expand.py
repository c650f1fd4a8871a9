"""From a study to its runs: a pure function of the study and two look-ups, of fingerprints and hashes of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transfuse.specs import DataSpec, InitSpec, ModelSpec, RunSpec, SourceSpec, StudySpec, TrainSpec


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
            "weights": self.spec.model.weights if self.spec.init.needs_weights else None,
            "source_run": self.spec.source_run,
        }


def expand(
    study: StudySpec, fingerprint: Callable[[DataSpec], str], weights_sha256: Callable[[str, str | None], str]
) -> list[PlannedRun]:
    """List every run of a study, sources first.

    Args:
        study: the study.
        fingerprint: gives the fingerprint of a data set.
        weights_sha256: gives the SHA-256 of a weights file by its name and the data's root.

    Returns:
        One planned run for each source and network, and for each network, arm and seed.
    """
    runs: list[PlannedRun] = []

    def plan(
        data: DataSpec, model: ModelSpec, init: InitSpec, train: TrainSpec, seed: int, names: tuple[str, str, str]
    ) -> PlannedRun:
        label, arm, role = names
        sha = needs = None
        if init.needs_weights and model.weights is not None:
            if model.weights.startswith("run:"):
                needs = source_of(label, model)
            else:
                sha = weights_sha256(model.weights, data.root)
        spec = RunSpec(
            data=data,
            model=model,
            init=init,
            train=train,
            seed=seed,
            monitor=train.monitor or study.metric if role == "arm" else train.monitor or "loss",
            fingerprint=fingerprint(data),
            weights_sha256=sha,
            source_run=needs,
        )
        return PlannedRun(spec, spec.run_id, label, arm, role, needs)

    def source_of(label: str, model: ModelSpec) -> str:
        name = (model.weights or "").removeprefix("run:")
        source: SourceSpec = study.sources[name]
        network = source.model or replace(model, weights=None)
        run = plan(source.data, network, source.init, source.train, source.seed, (label, name, "source"))
        if run not in runs:
            runs.append(run)
        return run.run_id

    arms = [
        plan(study.data, model, init, study.train, seed, (label, arm, "arm"))
        for label, model in study.models.items()
        for arm, init in study.arms.items()
        for seed in study.seed_list
    ]
    return runs + arms


def without_repeats(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs to be done: arms that come to the same run share it."""
    return list({run.run_id: run for run in reversed(runs)}.values())[::-1]
