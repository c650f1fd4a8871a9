"""A study round by round: the runs that can be named now, from what has ended so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from transfuse.results.store import Store
from transfuse.study.cut_sizes import size_of
from transfuse.study.expand import PlannedRun, Planner, Searched, expand
from transfuse.study.lengths import Lengths, lengths_with
from transfuse.study.search import choices as cuts_chosen
from transfuse.study.search import searched
from transfuse.study.search_file import write_search
from transfuse.study.sources import fingerprint, images_of, network_sha256, open_data, split_data, weights_sha256
from transfuse.study.sweeps import Unfolded
from transfuse.study.tuning import Rates, choices, tuned

Round = Callable[[Store], list[PlannedRun]]
"""The runs of a study that are known once those in a store have ended; asked again until it names no new ones."""


def next_round(unfolded: Unfolded, store: Store) -> list[PlannedRun]:
    """The runs of a study as far as they are known: arms that are tuned, and cuts that are chosen, once they can be."""
    runs = known_runs(unfolded, store)
    if tuned(unfolded.study) is None:
        return runs
    rates = {(one.model, one.arm): one.rate for one in choices((run.row() for run in runs), store)}
    return known_runs(unfolded, store, rates)


def known_runs(unfolded: Unfolded, store: Store | None = None, rates: Rates | None = None) -> list[PlannedRun]:
    """The runs of a study that are known at these learning rates; without a store, those of its beginning.

    How far a search is, is written down for the report.
    """
    study = unfolded.study

    def search(planner: Planner) -> Mapping[str, Searched]:
        split = split_data(study.data, open_data(study.data))
        images = images_of(split)

        def lengths(label: str, arm: str) -> Lengths:
            return lengths_with(study.models[label], study.arms[arm], study.train, split)

        def parameters(label: str, arm: str) -> int:
            return size_of(study.models[label], study.arms[arm], images)[0]

        found = cuts_chosen(unfolded, planner, store, lengths, parameters)
        if store is not None:
            write_search(store, unfolded, found, split)
        return searched(found, unfolded)

    given = None if study.search is None else search
    return expand(unfolded, fingerprint, weights_sha256, network_sha256, rates, given)
