"""Results: the store of run folders, comparisons with intervals, and the recommendation."""
