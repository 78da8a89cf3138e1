"""Ctrl-C, SIGTERM and a terminal that closes, at a moment of our choosing: between two steps."""

import signal
import threading

from ssd.console import warn
from ssd.errors import Signalled

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Signalled):
    """Raised where the state of the run is whole and can be saved."""


class Interrupt:
    """While entered, the first signal is only noted, for `check` to raise; a second one interrupts at once."""

    def __init__(self):
        self._number: int | None = None  # of the first signal
        self._before: dict = {}

    def __enter__(self) -> "Interrupt":
        # Python delivers signals to the main thread only; elsewhere (a notebook's worker) the default stays.
        if threading.current_thread() is threading.main_thread():
            # A SIGHUP that is ignored stays so: that is what `nohup` does. Shells ignore Ctrl-C for what runs in the
            # background, and a signal that is sent to it by name is meant.
            hung_up = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            heard = [number for number in SIGNALS if not (number == signal.SIGHUP and hung_up)]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        if self.requested:
            raise Signalled(number)
        self._number = number
        warn("interrupted: saving after this step (once more to stop at once)")

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self._number is not None

    def check(self) -> None:
        """Raises Stopped if a signal came."""
        if self._number is not None:
            raise Stopped(self._number)
