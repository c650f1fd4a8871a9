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


def test_what_a_search_trained_is_told_apart() -> None:
    runs = pd.DataFrame(
        {"run_id": list("abcc"), "training_equivalents": 1.0, "role": ["search", "search", "search", "arm"]}
    )
    assert shared_work(runs, "halving") == (
        "4 trainings asked for (3 by the search), 3 training-equivalents run: 1 is the same as another."
    )
    runs["role"] = "arm"
    assert shared_work(runs, "rank").startswith(
        "Nothing was trained for the search. 4 trainings asked for to compare what it chose, 3 training-equivalents"
    )
    runs["run_id"] = list("abcd")
    assert shared_work(runs, "rank").endswith("4 trainings asked for to compare what it chose.")
    assert shared_work(runs, "screen").startswith("The search trained one network with a head at every cut, which is n")
    assert shared_work(runs, "overlap") == ""
