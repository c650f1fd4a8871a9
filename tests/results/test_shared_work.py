import pandas as pd

from transfuse.results.shared_work import shared_work


def test_what_was_saved_is_said_and_nothing_where_nothing_was() -> None:
    runs = pd.DataFrame({"run_id": list("abcd"), "training_equivalents": [1.0, 1.0, 1.0, None]})
    assert shared_work(runs) == ""
    assert shared_work(runs[["run_id"]]) == ""  # of a store from before this was counted
    assert shared_work(pd.DataFrame()) == ""
    runs["run_id"] = list("abbb")
    assert shared_work(runs) == "4 trainings asked for, 2 training-equivalents run: 2 are the same as another."
    runs = pd.DataFrame({"run_id": list("abc"), "training_equivalents": [1.0, 0.25, 0.125]})
    assert shared_work(runs) == (
        "3 trainings asked for, 1.4 training-equivalents run: in 2 the frozen blocks saw each image once, not once an "
        "epoch."
    )
