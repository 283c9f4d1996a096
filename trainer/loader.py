"""The door to loading: the loader, its batches and its settings.

from trainer.loader import Loader

for batch in Loader("builds/celeba-rarest4", split="train", batch_size=256):
    logits = model(batch.images)
"""

from trainer.loading.feed import FeedSettings
from trainer.loading.loader import Batch, EngineSettings, Loader
from trainer.loading.staging import StagingSettings

__all__ = ["Batch", "EngineSettings", "FeedSettings", "Loader", "StagingSettings"]
