"""A printed comparison is a few lines that hold the answer."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import transfuse
from transfuse import Comparison, compare, compare_counts

TARGET = np.repeat([0, 1], 100)


def scores(*effects: float) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [TARGET * effect + generator.normal(size=(4, 200)) for effect in effects]


def test_a_printed_comparison_is_a_few_lines() -> None:
    found = compare(TARGET, *scores(1.0, 1.0), range(200), 0.05)
    assert isinstance(found, Comparison)
    first, second = str(found).split("\n")
    assert first == (
        f"undecided: {found.difference:+.3f} AUROC (95 % interval {found.low:+.3f} to {found.high:+.3f}), margin 0.05"
    )
    would = f"would decide (80 % power): {found.needed_patients} patients or {found.needed_seeds} seeds an arm"
    assert second == f"200 patients, 4 seeds an arm; {would}"
    assert repr(found) == f"<Comparison {first}>"


def test_classes_and_caveats_have_lines_of_their_own() -> None:
    generator = np.random.default_rng(1)
    target = generator.integers(0, 3, 150)
    a, b = (np.eye(3)[target] * effect + generator.random((3, 150, 3)) for effect in (0.8, 0.1))
    lines = str(compare(target, a, b[:2], None, 0.02)).split("\n")
    assert [line.split(":")[0] for line in lines[2:5]] == ["  class 0", "  class 1", "  class 2"]
    assert lines[1].startswith("150 patients, 3 and 2 seeds")
    assert lines[5].startswith("- No patient ids")
    many = np.tile(target == 1, (20, 1)).T.astype(float)
    wide = [np.tile(one[:, :, :1], 20) for one in (a, b)]
    lines = str(compare(many, *wide, range(150), 0.02)).split("\n")
    assert [line for line in lines if "more, in per_class" in line] == ["  and 8 classes more, in per_class"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_what_cannot_be_given_is_said(seeds: int) -> None:
    same = np.tile(TARGET * 1.0, (seeds, 1))
    text = str(compare(TARGET, same, same, range(200), 0.02))
    assert text.startswith("undecided: +0.000 AUROC (no interval), margin 0.02\n200 patients, ")
    assert "\n- No interval: every run reaches 1" in text


def test_small_margins_and_counts_are_shown_in_their_units() -> None:
    counts = np.random.default_rng(0).integers(1, 9, (3, 40, 3)) * [1, 1, 0] + [10, 0, 0]
    counts[..., 2] = 30 - counts[..., 0]
    assert " Dice (95 % interval " in str(compare_counts(counts, counts[::-1], range(40), 0.02))
    found = compare(TARGET, *scores(1.0, 1.0), range(200), 0.0005)
    assert f"{found.difference:+.5f} AUROC" in str(found)


def test_help_names_what_comes_back() -> None:
    said = inspect.getdoc(transfuse.compare) or ""
    for name in ("Returns:", "difference", "low", "high", "verdict", "needed_patients", "needed_seeds", "per_class"):
        assert name in said
