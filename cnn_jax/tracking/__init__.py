"""What a run records of itself: its folder, metrics.jsonl, run.json."""
