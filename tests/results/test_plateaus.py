"""Which arms of a study had levelled off, from its tables, and what becomes of a comparison with one that had not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from transfuse.errors import SpecError
from transfuse.results.plateaus import caveats, gained, notes, plateaus, rising, withheld
from transfuse.statistics.comparison import Comparison, compare
from transfuse.statistics.many import compare_all
from transfuse.statistics.plateau import Plateau, plateau

RISING, LEVEL = [0.5, 0.6, 0.7], [0.5, 0.8, 0.79]


def tables(
    curves: Mapping[tuple[str, int], Sequence[float]], quantity: str = "auroc", **columns: object
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs of a network, and their validations at steps 100, 200, ...; those of seed 9 diverged."""
    runs, history = [], []
    for (arm, seed), values in curves.items():
        run_id = f"{arm}-{seed}"
        status = "diverged" if seed == 9 else "finished"
        runs.append({"run_id": run_id, "model": "net", "arm": arm, "seed": seed, "role": "arm", "status": status})
        for place, value in enumerate(values, start=1):
            history.append((run_id, 100 * place, "val", quantity, value))
            history.append((run_id, 100 * place, "train", quantity, place))
    columns_of = ["run_id", "step", "split", "quantity", "value"]
    return pd.DataFrame(runs).assign(**columns), pd.DataFrame(history, columns=columns_of)


def test_each_arm_is_told_from_its_finished_runs() -> None:
    runs, history = tables({("a", 0): RISING, ("a", 1): RISING, ("a", 9): [0.5, 0.5], ("b", 0): LEVEL})
    found = plateaus(runs.sample(frac=1, random_state=0), history.sample(frac=1, random_state=1), "auroc", 0.05)
    assert {key: one.plateaued for key, one in found.items()} == {("net", "a"): False, ("net", "b"): True}
    assert found["net", "a"].gains == pytest.approx((0.1, 0.1))
    assert rising(found, "net", ["a", "b", "c"]) == {"a": found["net", "a"]}
    assert rising(found, "other", ["a"]) == {}


def test_sources_and_trials_are_no_arms() -> None:
    runs, history = tables({("a", 0): LEVEL, ("natural", 0): RISING}, role=["arm", "source"])
    assert list(plateaus(runs, history, "auroc", 0.05)) == [("net", "a")]


def test_a_loss_like_metric_gains_by_falling() -> None:
    runs, history = tables({("a", 0): [0.5, 0.4, 0.3], ("b", 0): [0.3, 0.4, 0.5]}, "brier")
    found = plateaus(runs, history, "brier", 0.05)
    assert found["net", "a"].gained == pytest.approx(0.1)
    assert found["net", "b"].plateaued is True


def test_the_value_counts_that_the_monitored_quantity_chose() -> None:
    runs, history = tables({("a", 0): RISING}, monitor="loss")
    assert plateaus(runs, history, "auroc", 0.05)["net", "a"].plateaued is False  # the loss is not in the history
    _, losses = tables({("a", 0): [0.9, 0.3, 0.8]}, "loss")
    found = plateaus(runs, pd.concat([history, losses]), "auroc", 0.05)
    assert found["net", "a"].plateaued is True  # the network of step 200 is the one that is tested


def test_where_only_the_loss_is_logged_it_cannot_be_told() -> None:
    runs, history = tables({("a", 0): RISING, ("b", 0): LEVEL}, "loss", monitor="loss")
    found = plateaus(runs, history, "kappa", 0.05)
    assert {one.plateaued for one in found.values()} == {None}
    (caveat,) = caveats(found, "net", "kappa")
    assert caveat == (
        "whether training had levelled off can't be told for a and b: the validations did not log quadratic kappa."
    )


def test_a_run_without_validations_of_the_metric_is_not_left_out() -> None:
    runs, history = tables({("a", 0): LEVEL, ("a", 1): LEVEL}, monitor="auroc")
    found = plateaus(runs, history[history["run_id"] != "a-1"], "auroc", 0.05)
    assert found["net", "a"].plateaued is None
    assert "in 1 of 2 runs" in found["net", "a"].reason


def test_without_tables_nothing_is_said() -> None:
    runs, history = tables({("a", 0): RISING})
    assert plateaus(runs.iloc[:0], history, "auroc", 0.05) == {}
    assert plateaus(runs, history.iloc[:0], "auroc", 0.05) == {}
    assert plateaus(runs.assign(status="diverged"), history, "auroc", 0.05) == {}
    assert caveats({}, "net", "auroc") == []
    with pytest.raises(SpecError, match="margin is -1"):
        plateaus(runs, history, "auroc", -1)


def test_the_caveat_names_the_arms_what_they_gained_and_the_cure() -> None:
    runs, history = tables({("a", 0): RISING, ("b", 0): LEVEL, ("c", 0): [*RISING, 0.8, 0.9, 1.0], ("c", 1): RISING})
    found = plateaus(runs, history, "auroc", 0.05)
    (caveat,) = caveats(found, "net", "auroc")
    assert caveat == (
        "training had not levelled off in 2 of 3 arms, so no verdict is given on them: train longer, until less than "
        "0.025 of validation AUROC, half the margin, is gained in the last third of the steps "
        "(a: 0.100 over steps 200 to 300; c: 0.150 over steps 400 to 600 and 200 to 300)."
    )
    assert caveats(found, "other", "auroc") == []


def level_off(values: Sequence[float], margin: float = 0.05) -> Plateau:
    return plateau([(range(100, 100 * len(values) + 1, 100), values)], margin)


def test_gains_are_one_clause_where_the_steps_are_the_same() -> None:
    still = {"a": level_off(RISING), "b": level_off([0.5, 0.6, 0.64]), "c": level_off([*RISING, 0.8, 0.9, 1.0])}
    assert gained(still, "auroc") == (
        "a gained 0.100 and b 0.040 validation AUROC in the last third of their 300 steps; "
        "c gained 0.200 validation AUROC in the last third of its 600 steps"
    )
    (note,) = notes({"a": still["a"]}, "auroc")
    assert note == (
        "Training had not levelled off: a gained 0.100 validation AUROC in the last third of its 300 steps, and only "
        "less than 0.025, half the margin, is level. No verdict is given; train longer."
    )


def found_of(shift: float, margin: float = 0.05) -> Comparison:
    rng = np.random.default_rng(0)
    target = np.arange(400) % 3
    scores = rng.normal(size=(2, 4, 400, 3)) + 1.5 * np.eye(3)[target]
    scores[0] += shift * np.eye(3)[target]
    return compare(target, scores[0], scores[1], range(400), margin)


def test_a_withheld_comparison_keeps_its_numbers_and_has_no_test() -> None:
    found = found_of(2.0)
    assert found.verdict == "helps"
    assert withheld(found, {}) is found
    still = {"a": level_off(RISING)}
    held = withheld(found, still)
    assert (held.verdict, held.needed_patients, held.needed_seeds) == ("undecided", None, None)
    assert (held.difference, held.low, held.high, held.values_a) == (
        *(found.difference, found.low, found.high),
        found.values_a,
    )
    for one in (held, *held.per_class.values()):
        assert all(math.isnan(p) for p in (one.p_difference, one.p_equivalence, one.p_not_worse))
        assert not one.not_worse
        assert one.verdict == "undecided"
    assert len(held.per_class) == 3
    assert held.notes == (*found.notes, *notes(still, "auroc"))
    assert held.caveats == held.notes  # no word on more patients, nor on Holm


def test_holm_leaves_a_withheld_comparison_out() -> None:
    base = found_of(2.0)
    weak = replace(base, p_difference=0.02, p_equivalence=0.9)  # enough by itself, and not among ten
    rows = {place: replace(base, p_difference=0.5, p_equivalence=0.9) for place in range(9)}
    assert compare_all({"weak": weak, **rows})["weak"].verdict == "undecided"
    still = {"a": level_off(RISING)}
    held = compare_all({"weak": weak, **{place: withheld(row, still) for place, row in rows.items()}})
    assert (held["weak"].verdict, held["weak"].family) == ("helps", 1)
    assert {held[place].verdict for place in rows} == {"undecided"}
    assert {of.verdict for of in held[0].per_class.values()} == {"undecided"}
    assert {of.family for of in held["weak"].per_class.values()} == {3}
