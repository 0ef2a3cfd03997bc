"""Questions: arms and seeds of an experiment, planned, run and reported."""
