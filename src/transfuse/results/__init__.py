"""Results: the store of run folders, tables over finished runs, and the recommendation in words."""
