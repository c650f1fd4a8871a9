"""From a study to its runs: a pure function of the study and of look-ups: fingerprints, blocks, hashes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from transfuse.specs import DataSpec, InitSpec, ModelSpec, RunSpec, TrainSpec
from transfuse.study.meaning import draws_back, meaning, training
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
    unfolded: Unfolded,
    fingerprint: Callable[[DataSpec], str],
    weights_sha256: Callable[[str, str | None], str],
    network_sha256: Callable[[ModelSpec, DataSpec], str | None],
) -> list[PlannedRun]:
    """List every run of a study, sources first.

    Args:
        unfolded: the study, with one arm for each block where it says `every`.
        fingerprint: gives the fingerprint of a data set.
        weights_sha256: gives the SHA-256 of a weights file by its name and the data's root.
        network_sha256: gives the digest of a network of one's own, None for every other.

    Returns:
        One planned run for each source and network, and for each network, arm and seed.
    """
    study = unfolded.study
    followed = [analysis for analysis in study.analyses if analysis.what == "dynamics"]
    sources: list[PlannedRun] = []

    def plan(
        data: DataSpec, model: ModelSpec, init: InitSpec, train: TrainSpec, seed: int, names: tuple[str, str, str],
        asking: ModelSpec,
    ) -> PlannedRun:  # fmt: skip
        label, arm, role = names
        sha = needs = None
        init = meaning(init, model, unfolded.names)
        if not init.uses_weights:
            model = replace(model, weights=None)
        elif (model.weights or "").startswith("run:"):
            needs = source_of(label, model, asking)
        elif model.weights is not None:
            sha = weights_sha256(model.weights, data.root)
        if role == "arm" and not train.snapshots and any(analysis.covers(label, arm, seed) for analysis in followed):
            train = replace(train, snapshots="log")
        spec = RunSpec(
            data=data,
            model=model,
            init=replace(init, weights=None, learning_rate=None, head_learning_rate=None, layer_decay=None, l2_sp=None),
            train=training(train, init, partial(draws_back, init, model, unfolded.names)),
            seed=seed,
            monitor=train.monitor or study.metric if role == "arm" else train.monitor or "loss",
            fingerprint=fingerprint(data),
            weights_sha256=sha,
            source_run=needs,
            network_sha256=network_sha256(model, data),
        )
        return PlannedRun(spec, spec.run_id, label, arm, role, needs)

    def source_of(label: str, model: ModelSpec, asking: ModelSpec) -> str:
        name = (model.weights or "").removeprefix("run:")
        source = study.sources[name]
        # The network of whoever asks, as the study names it: the label's, or that of a source that starts from this.
        own = study.source_model(name, asking)
        names = (label, name, "source")
        run = plan(study.source_data(name), own, source.init, source.train, source.seed, names, own)
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
            model,
        )
        for label, model in study.models.items()
        for arm in unfolded.arms[label]
        for seed in study.seed_list
    ]
    return sources + arms


def without_repeats(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs to be done: arms that come to the same run share it, and one that keeps snapshots stands for all."""
    kept = {run.run_id: run for run in reversed(runs)}
    kept |= {run.run_id: run for run in reversed(runs) if run.spec.train.snapshots}
    return list(kept.values())[::-1]
