"""The lectures, run: `python -m experiments.lectures` has their numbers, each file here one of their examples."""
