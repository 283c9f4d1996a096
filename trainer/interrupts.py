"""Interrupts: Ctrl-C and SIGTERM end a run after the current step, so that it is finished and saved."""

import signal
from types import FrameType
from typing import Any


class Interrupts:
    """Within it, the first signal is noted, and the second one ends at once."""

    def __init__(self) -> None:
        self.requested = False
        """True once a signal came."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread, which alone gets signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
