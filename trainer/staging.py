"""The door to the settings of the shard cache."""

from trainer.loading.staging import StagingSettings

__all__ = ["StagingSettings"]
