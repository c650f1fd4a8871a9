"""The identity of a run: what decides its numbers and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from transfuse.specs import DataSpec, InitSpec, ModelSpec, RunSpec, TrainSpec

RUN = RunSpec(
    data=DataSpec(name="fundus-phantom"),
    model=ModelSpec(name="cbr_tiny", weights="weights.safetensors"),
    init=InitSpec(depth="all"),
    train=TrainSpec(steps=10),
    seed=0,
    monitor="auroc",
    fingerprint="abc",
    weights_sha256="def",
)


@pytest.mark.parametrize(
    "same",
    [
        replace(RUN, data=replace(RUN.data, root="/elsewhere")),
        replace(RUN, data=replace(RUN.data, name="other/path.npz")),
        replace(RUN, model=replace(RUN.model, weights="other/name.safetensors")),
        replace(RUN, train=replace(RUN.train, monitor="auroc")),
    ],
)
def test_names_and_paths_do_not_change_it(same: RunSpec) -> None:
    assert same.run_id == RUN.run_id


@pytest.mark.parametrize(
    "other",
    [
        replace(RUN, seed=1),
        replace(RUN, fingerprint="abd"),
        replace(RUN, weights_sha256="deg"),
        replace(RUN, monitor="loss"),
        replace(RUN, source_run="123"),
        replace(RUN, data=replace(RUN.data, size=32)),
        replace(RUN, data=replace(RUN.data, split_seed=1)),
        replace(RUN, data=replace(RUN.data, train_fraction=0.5)),
        replace(RUN, model=replace(RUN.model, name="cbr_small")),
        replace(RUN, model=replace(RUN.model, first_layer="first")),
        replace(RUN, init=replace(RUN.init, depth=2)),
        replace(RUN, train=replace(RUN.train, threads=2)),
        replace(RUN, train=replace(RUN.train, validate_every=1)),
    ],
)
def test_what_decides_the_numbers_changes_it(other: RunSpec) -> None:
    assert other.run_id != RUN.run_id


def test_a_random_start_does_not_depend_on_the_weights_settings() -> None:
    """The random baseline is shared by studies that differ only in their pretrained weights."""
    random = replace(RUN, init=InitSpec(), weights_sha256=None)
    assert replace(random, model=replace(RUN.model, first_layer="first", weights=None)).run_id == random.run_id


def test_it_is_stable() -> None:
    """A changed value here means that every finished run of every user would be done again: raise NUMERICS_VERSION."""
    assert len(RUN.run_id) == 12
    assert RUN.run_id == replace(RUN).run_id
