"""From a study to its runs: a pure function of the study and of look-ups: fingerprints, blocks, hashes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from transfuse.specs import DataSpec, InitSpec, ModelSpec, RunSpec, TrainSpec
from transfuse.study.meaning import draws_back, meaning, training
from transfuse.study.shared_features import Sibling
from transfuse.study.sweeps import Unfolded
from transfuse.study.tuning import Rates, tuned


@dataclass(frozen=True)
class PlannedRun:
    """A run and what this study calls it.

    Attributes:
        spec: the resolved run.
        run_id: its identity.
        model: the network's label in the study.
        arm: the arm's name, or the source's for a source run.
        role: `arm`, `source`, `trial` of a learning rate for an arm, `size`: an arm on fewer training patients, or
            `search`: one of the trainings by which the cut of an arm is chosen.
        needs: the run whose weights this one starts from, if any.
        continues: a shorter run of the same training that has ended before this one is named, if any.
        siblings: what the runs of the study, this one among them, freeze of a network that starts as this one does.
    """

    spec: RunSpec
    run_id: str
    model: str
    arm: str
    role: str
    needs: str | None = None
    siblings: tuple[Sibling, ...] = ()
    continues: str | None = None

    @property
    def title(self) -> str:
        """How a person recognises the run."""
        what = {"source": f"source {self.arm}", "trial": f"{self.arm} at rate {self.learning_rate:g}"}
        if self.role == "search" and self.spec.train.steps is not None:
            what["search"] = f"{self.arm} for {self.spec.train.steps} steps"
        share = self.spec.data.train_fraction
        fewer = f" on {100 * share:.4g} % of the patients" if self.role in ("size", "source") and share < 1 else ""
        return f"{self.model} · {what.get(self.role, self.arm)}{fewer} · seed {self.spec.seed}"

    @property
    def learning_rate(self) -> float:
        """Of what is trained, the head aside where it has one of its own."""
        return self.spec.train.optimizer.learning_rate

    def row(self) -> dict[str, Any]:
        """The names of the run, as columns of the study's tables."""
        return {
            "run_id": self.run_id,
            "model": self.model,
            "arm": self.arm,
            "seed": self.spec.seed,
            "role": self.role,
            "learning_rate": self.learning_rate,
            "train_fraction": self.spec.data.train_fraction,
            "network": self.spec.model.name,
            "weights": self.spec.model.weights if self.spec.init.uses_weights else None,
            "source_run": self.spec.source_run,
            "asked_steps": self.spec.train.steps,
        }


class Searched(NamedTuple):
    """How far the search over the cuts of one network is.

    Fields:
        cuts: the arms among which is chosen.
        runs: the trainings that the search has asked for so far.
        finals: those of the cuts that are arms of the study by now.
    """

    cuts: tuple[str, ...]
    runs: tuple[PlannedRun, ...]
    finals: tuple[str, ...]


class Planner:
    """Makes runs of the arms and sources of a study.

    Args:
        unfolded: the study, with one arm for each block where it says `every`.
        fingerprint: gives the fingerprint of a data set.
        weights_sha256: gives the SHA-256 of a weights file by its name and the data's root.
        network_sha256: gives the digest of a network of one's own, None for every other.

    Attributes:
        study: the study.
        sources: the runs of sources that were needed so far.
    """

    def __init__(
        self,
        unfolded: Unfolded,
        fingerprint: Callable[[DataSpec], str],
        weights_sha256: Callable[[str, str | None], str],
        network_sha256: Callable[[ModelSpec, DataSpec], str | None],
    ) -> None:
        self.unfolded, self.study = unfolded, unfolded.study
        self._fingerprint, self._weights, self._network = fingerprint, weights_sha256, network_sha256
        self.sources: list[PlannedRun] = []

    def of_arm(
        self,
        label: str,
        arm: str,
        seed: int,
        role: str = "arm",
        *,
        rate: float | None = None,
        data: DataSpec | None = None,
        steps: int | None = None,
    ) -> PlannedRun:
        """A run of an arm of a network.

        Args:
            label: the network's.
            arm: the arm's name.
            seed: one of the study's.
            role: see `PlannedRun`.
            rate: the learning rate, where not the arm's own.
            data: the images, where not all.
            steps: the length of the training, where not the study's.
        """
        model, init = self.study.models[label], self.study.arms[arm]
        own = replace(model, weights=init.weights or model.weights)
        if rate is not None:
            init = replace(init, learning_rate=rate)
        train = self.study.train if steps is None else replace(self.study.train, steps=steps, epochs=None)
        data = self.study.data if data is None else data
        return self._plan(data, own, init, train, seed, (label, arm, role), model, data)

    def _plan(
        self, data: DataSpec, model: ModelSpec, init: InitSpec, train: TrainSpec, seed: int,
        names: tuple[str, str, str], asking: ModelSpec, target: DataSpec,
    ) -> PlannedRun:  # fmt: skip
        label, arm, role = names
        sha = needs = None
        lookup = self.unfolded.names
        init = meaning(init, model, lookup)
        if not init.uses_weights:
            model = replace(model, weights=None)
        elif (model.weights or "").startswith("run:"):
            needs = self._source_of(label, model, asking, target)
        elif model.weights is not None:
            sha = self._weights(model.weights, data.root)
        followed = (analysis for analysis in self.study.analyses if analysis.what == "dynamics")
        whole = role in ("arm", "trial") or (role == "search" and train.steps == self.study.train.steps)
        looked_at = whole and any(analysis.covers(label, arm, seed) for analysis in followed)
        if looked_at and not train.snapshots:
            train = replace(train, snapshots="log")
        spec = RunSpec(
            data=data,
            model=model,
            init=replace(init, weights=None, learning_rate=None, head_learning_rate=None, layer_decay=None, l2_sp=None),
            train=training(train, init, partial(draws_back, init, model, lookup)),
            seed=seed,
            monitor=train.monitor or ("loss" if role == "source" else self.study.metric),
            fingerprint=self._fingerprint(data),
            weights_sha256=sha,
            source_run=needs,
            network_sha256=self._network(model, data),
        )
        return PlannedRun(spec, spec.run_id, label, arm, role, needs)

    def _source_of(self, label: str, model: ModelSpec, asking: ModelSpec, target: DataSpec) -> str:
        name = (model.weights or "").removeprefix("run:")
        source = self.study.sources[name]
        # The network of whoever asks, as the study names it: the label's, or that of a source that starts from this.
        own = self.study.source_model(name, asking)
        names = (label, name, "source")
        # A source on the study's own data has no more patients than the arm that starts from it.
        data = source.data or target
        run = self._plan(data, own, source.init, source.train, source.seed, names, own, target)
        if run not in self.sources:
            self.sources.append(run)
        return run.run_id


def expand(
    unfolded: Unfolded,
    fingerprint: Callable[[DataSpec], str],
    weights_sha256: Callable[[str, str | None], str],
    network_sha256: Callable[[ModelSpec, DataSpec], str | None],
    rates: Rates | None = None,
    search: Callable[[Planner], Mapping[str, Searched]] | None = None,
) -> list[PlannedRun]:
    """List every run of a study as far as it is known, sources first, then the trials of learning rates.

    A study that tunes is expanded again after its trials: an arm is part of it from when its rate is chosen. So is one
    that searches: of the arm that is searched those cuts are part of it that were chosen.

    Args:
        unfolded: the study, with one arm for each block where it says `every`.
        fingerprint: gives the fingerprint of a data set.
        weights_sha256: gives the SHA-256 of a weights file by its name and the data's root.
        network_sha256: gives the digest of a network of one's own, None for every other.
        rates: the learning rates that were chosen so far.
        search: says how far the search over each network's cuts is.

    Returns:
        One planned run for each source and network, for each network, arm, seed and rate to be tried, and for each
        network, arm and seed, on all training patients and then at each of the smaller sizes; and what is searched.
    """
    planner = Planner(unfolded, fingerprint, weights_sha256, network_sha256)
    searched = {} if search is None else search(planner)
    study, of_arm = planner.study, planner.of_arm
    grid, chosen = tuned(study), rates or {}
    trials: list[PlannedRun] = []
    arms, smaller = [], []
    for label in study.models:
        found = searched.get(label)
        trials += [] if found is None else found.runs
        for arm in unfolded.arms[label]:
            if found is not None and arm in found.cuts and arm not in found.finals:
                continue
            open_ = grid if study.arms[arm].learning_rate is None else None
            if open_ is not None:
                tried = product(study.seed_list[: open_.seeds], open_.learning_rates)
                trials += [of_arm(label, arm, seed, "trial", rate=rate) for seed, rate in tried]
            if open_ is None or (label, arm) in chosen:
                rate, seeds = chosen.get((label, arm)), study.seed_list
                arms += [_going_on(of_arm(label, arm, seed, rate=rate), found) for seed in seeds]
                each = product(study.smaller_data, seeds)
                smaller += [of_arm(label, arm, seed, "size", rate=rate, data=data) for data, seed in each]
    return _with_siblings(planner.sources + trials + arms + smaller)


def _going_on(run: PlannedRun, found: Searched | None) -> PlannedRun:
    """The run, with the longest training of the search that it goes on from."""
    same = [one for one in (found.runs if found else ()) if (one.arm, one.spec.seed) == (run.arm, run.spec.seed)]
    shorter = [one for one in same if one.run_id != run.run_id]
    return replace(run, continues=shorter[-1].run_id) if shorter else run


def _with_siblings(runs: list[PlannedRun]) -> list[PlannedRun]:
    """The runs, each with what those freeze, itself among them, that have its network, weights and data."""

    def alike(run: PlannedRun) -> tuple[Any, ...]:
        spec, init = run.spec, run.spec.init
        start = (init.level, init.norm, str(init.overrides))
        return spec.model, spec.weights_sha256, spec.source_run, start, spec.fingerprint, spec.train.batch_size

    def shares(run: PlannedRun) -> bool:
        init = run.spec.init
        return init.freeze != 0 and init.norm_statistics == "frozen" and init.uses_weights and init.truncate is None

    frozen: dict[tuple[Any, ...], list[Sibling]] = {}
    for run in filter(shares, {run.run_id: run for run in runs}.values()):
        frozen.setdefault(alike(run), []).append(Sibling(run.spec.init.depth, run.spec.init.freeze))
    return [replace(run, siblings=tuple(frozen[alike(run)])) if shares(run) else run for run in runs]


def without_repeats(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs to be done: arms that come to the same run share it, and one that keeps snapshots stands for all."""
    kept = {run.run_id: run for run in reversed(runs)}
    kept |= {run.run_id: run for run in reversed(runs) if run.spec.train.snapshots}
    return list(kept.values())[::-1]
