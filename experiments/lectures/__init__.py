"""The lectures, recomputed: `python -m experiments.lectures` prints their numbers; each file is one example."""
