"""Ctrl-C, SIGTERM and a terminal that closes, at a moment of our choosing: between two steps."""

import logging
import signal
import sys
import threading
from collections.abc import Callable

from ssd.console import log, warn
from ssd.errors import Signalled

ASK_EVERY = 16  # steps between agreements of several processes; each waits for the devices
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Signalled):
    """Raised where the state of the run is whole and can be saved."""


class Interrupt:
    """While entered, the first signal is only noted, for `check` to raise; a second one interrupts at once.

    Args:
        agree: of processes that train together: the largest number that any of them comes with. They ask at the same
            steps, and stop at the same one.
    """

    def __init__(self, agree: Callable[[int], int] | None = None):
        self._number = 0  # of the first signal
        self._agree, self._asked = agree, 0
        self._agreed = 0  # the number that all stop for
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
        if self._number:
            raise Signalled(number)
        self._number = number
        when = "this step" if self._agree is None else f"at most {ASK_EVERY} steps"
        text = f"interrupted: saving after {when} (once more to stop at once)"
        if log.isEnabledFor(logging.WARNING):
            warn(text)
        else:  # a process that leaves all other words to the first one answers whoever sent it a signal
            print(text, file=sys.stderr)

    def requested(self) -> bool:
        """Whether a signal came, to any of the processes."""
        if self._agree is None:
            self._agreed = self._number
        elif not self._agreed:
            self._asked += 1
            if self._asked % ASK_EVERY == 0:
                self._agreed = self._agree(self._number)
        return bool(self._agreed)

    def check(self) -> None:
        """Raises Stopped if a signal came."""
        if self.requested():
            raise Stopped(self._agreed)
