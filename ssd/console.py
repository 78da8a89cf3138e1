"""What the person at the terminal sees: lines, warnings, progress bars. `--quiet` leaves warnings and errors."""

import io
import logging
import sys
import time
from pathlib import Path

log = logging.getLogger("ssd")
_STARTED = time.monotonic()  # about the first thing that the command line imports


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno == logging.INFO else f"{record.levelname.lower()}: {text}"


class _Stream(logging.StreamHandler):
    """Information to stdout, the rest to stderr; found at each line, so that redirection in tests works."""

    def __init__(self):
        logging.Handler.__init__(self)
        self.stream = None  # until the first line; flush() at exit looks at it

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout if record.levelno <= logging.INFO else sys.stderr
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exception(), BrokenPipeError):
            raise  # logging would print a traceback for every line; the command line ends the run instead
        super().handleError(record)


def set_up(*, quiet: bool = False, verbose: bool = False, log_file: str | None = None) -> None:
    """Routes the `ssd` logger: to the terminal and, when named, to a file that is appended to.

    Raises:
        OSError: the file, or a folder for it, cannot be made.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A class name that the terminal's encoding lacks must not end a run; stderr is so from the start.
        sys.stdout.reconfigure(errors="backslashreplace")
    log.handlers.clear()
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    handlers: list[logging.Handler] = [_Stream()]
    if log_file:
        path = Path(log_file).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(_Format("%(message)s"))
        log.addHandler(handler)


def only_errors() -> None:
    """From here on: what another process of the same run says need not be said twice."""
    log.setLevel(logging.ERROR)


def say(text: str = "") -> None:
    """A line of information."""
    log.info("%s", text)


def since_start() -> float:
    """Seconds that this process runs."""
    return time.monotonic() - _STARTED


def warn(text: str) -> None:
    """A warning: the run goes on, and the user should know."""
    log.warning("%s", text)


def progress(iterable=None, *, total: int | None = None, label: str, unit: str = "images"):
    """A tqdm bar on stderr, silent under `--quiet` and where stderr is no terminal; gone when done."""
    from tqdm import tqdm

    hidden = log.level > logging.INFO or not sys.stderr.isatty()
    return tqdm(iterable, total=total, desc=label, unit=f" {unit}", leave=False, disable=hidden, dynamic_ncols=True)
