"""Keeps the log lines of native libraries (TensorFlow, XLA, oneDNN) from the terminal.

They are written to file descriptor 2 by C++ code, partly before any setting is read. So descriptor 2 becomes a pipe
whose reader passes on everything but such lines, and Python's own `sys.stderr` keeps the real terminal. The reader is
a process, not a thread: the last words of a crash still come through, and nobody waits for the interpreter lock.
"""

import os
import re
import signal
import sys
from typing import NoReturn

# absl's form, `I0000 00:00:1795374292.06  13992 port.cc:153] ...`, what belongs to it (a second line may name
# the node of a graph), and plugin chatter.
_NOISE = re.compile(
    rb"^([IWE]\d{4} \d\d:\d\d:[\d.]+ +\d+ [\w./-]+:\d+\]|WARNING: All log messages before absl::InitializeLog"
    rb"|To enable the following instructions: |\t \[\[\{\{(function_)?node )"
)


def keep_from_terminal() -> None:
    """From now on; does nothing where `sys.stderr` is not the process's own (under a test's capture)."""
    try:
        if sys.stderr.fileno() != 2:
            return
    except (AttributeError, OSError, ValueError):
        return
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(writer)
        _filter(reader)
    os.close(reader)
    terminal = os.dup(2)
    os.dup2(writer, 2)
    os.close(writer)
    sys.stderr = os.fdopen(terminal, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")


def _filter(reader: int) -> NoReturn:
    """The life of the process between the pipe and the terminal; ends with the last writer."""
    try:
        # Ctrl-C reaches the whole process group; what the others then say must still pass.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(0)
        os.close(1)
        rest = b""
        while piece := os.read(reader, 65536):
            *lines, rest = (rest + piece).split(b"\n")
            os.write(2, b"".join(line + b"\n" for line in lines if not _NOISE.match(line)))
        if not _NOISE.match(rest):
            os.write(2, rest)
    finally:
        os._exit(0)
