"""Ctrl-C and SIGTERM at a moment of our choosing: between two steps."""

import signal
import threading

from ssd.console import warn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Raised where the state of the run is whole and can be saved."""


class Interrupt:
    """While entered, the first signal is only noted, for `check` to raise; a second one interrupts at once."""

    def __init__(self):
        self.requested = False
        self._before: dict = {}

    def __enter__(self) -> "Interrupt":
        # Python delivers signals to the main thread only; elsewhere (a notebook's worker) the default stays.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        warn("interrupted: saving after this step (once more to stop at once)")

    def check(self) -> None:
        """Raises Stopped if a signal came."""
        if self.requested:
            raise Stopped
