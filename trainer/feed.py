"""The door to the settings of the feed."""

from trainer.loading.feed import FeedSettings

__all__ = ["FeedSettings"]
