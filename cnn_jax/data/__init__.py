"""From a data set's name to batches: sources (random access), augmentation (pure functions), pipeline (order)."""
