"""Studies: from a study file to its runs, one run, all runs, and what follows from them."""
