"""Progress: what a build tells whoever watches it."""

import time
from typing import Protocol


class Progress(Protocol):
    """Watches images being packed; times in seconds."""

    def expect(self, num_images: int) -> None:
        """Take the number of images to pack, once it is known."""

    def begin(self, at: float) -> None:
        """Count time from when the first worker began (Unix seconds)."""

    def advance(self, num_images: int, num_rejects: int) -> None:
        """Count images that are done, and rejects among them."""

    @property
    def seconds(self) -> float:
        """How long packing took so far."""


class Stopwatch:
    """The progress that nobody looks at: it only takes the time."""

    def __init__(self) -> None:
        self._begun = self._last = time.time()
        self._has_begun = False

    def expect(self, num_images: int) -> None:
        """Nothing depends on it."""

    def begin(self, at: float) -> None:
        """Count time from the first of several beginnings."""
        self._begun = min(self._begun, at) if self._has_begun else at
        self._has_begun = True

    def advance(self, num_images: int, num_rejects: int) -> None:  # noqa: ARG002 - the protocol's
        """Take the time."""
        self._last = time.time()

    @property
    def seconds(self) -> float:
        """From the first beginning to the last image."""
        return self._last - self._begun
