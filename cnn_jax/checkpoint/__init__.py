"""Checkpoints: saved in the background, complete or absent, verified before they are restored; buckets."""
