"""Results: one module per kind of task with the figures of a split."""
