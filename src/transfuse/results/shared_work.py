"""What a study saved: trainings that are asked for under several names, and frozen blocks that see the images once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transfuse.results import phrases

if TYPE_CHECKING:
    import pandas as pd


_BEFORE = {
    "rank": "Nothing was trained for the search. ",
    "screen": "The search trained one network with a head at every cut, which is not counted here. ",
}
"""What a search by an analysis trained."""


def shared_work(runs: pd.DataFrame, strategy: str = "") -> str:
    """How many trainings were asked for and what share of their work was done; empty where nothing was shared.

    Args:
        runs: one row for each name of a run that has ended, with `run_id`, and `training_equivalents`: the share of its
            multiply-accumulate operations that a run did not take from others (1 where it is not known); of a study
            that searches, `role` too.
        strategy: of the search, if any.

    >>> import pandas as pd
    >>> shared_work(pd.DataFrame({"run_id": ["a", "b", "c", "c"], "training_equivalents": [1.0, 0.4, 0.1, 0.1]}))
    '4 trainings asked for, 1.5 training-equivalents run: 1 is the same as another; in 2 the frozen blocks saw each \
image once, not once an epoch.'
    """
    if runs.empty or "training_equivalents" not in runs:
        return ""
    distinct = runs.drop_duplicates("run_id")["training_equivalents"].fillna(1.0).astype(float)
    same, frozen = len(runs) - len(distinct), int((distinct < 1).sum())
    why = [f"{same} {'is' if same == 1 else 'are'} the same as another"] if same else []
    why += [f"in {frozen} the frozen blocks saw each image once, not once an epoch"] if frozen else []
    before = _BEFORE.get(strategy, "")
    asked, done = f"{phrases.counted(len(runs), 'training')} asked for", f"{distinct.sum():.1f}".removesuffix(".0")
    if before:
        asked += " to compare what it chose"
    elif "role" in runs and (searched := int((runs["role"] == "search").sum())):
        asked += f" ({searched} by the search)"
    if not why:
        return f"{before}{asked}." if before else ""
    return f"{before}{asked}, {done} training-equivalents run: {'; '.join(why)}."
