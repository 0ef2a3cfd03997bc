"""Checkpoints: saved in the background, whole or not there, checked before they are restored; buckets."""
