"""Loading: from the shards of a build to batches on the device."""
