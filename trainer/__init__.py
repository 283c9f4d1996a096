"""The trainer: from shards to trained networks and reports."""
