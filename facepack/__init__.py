"""facepack turns loose face images and odd label files into verified WebDataset shards with a Parquet manifest."""

__version__ = "0.1.0"
