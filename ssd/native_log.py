"""Keeps the log lines of native libraries (TensorFlow, XLA, oneDNN) from the terminal.

They are written to file descriptor 2 by C++ code, partly before any setting is read. So descriptor 2 becomes a pipe
whose reader passes on everything but such lines, and Python's own `sys.stderr` keeps the real terminal.
"""

import os
import re
import sys
import threading

# absl's form, `I0000 00:00:1795374292.06  13992 port.cc:153] ...`, what belongs to it, and plugin chatter.
_NOISE = re.compile(
    rb"^([IWE]\d{4} \d\d:\d\d:[\d.]+ +\d+ [\w./-]+:\d+\]|WARNING: All log messages before absl::InitializeLog"
    rb"|To enable the following instructions: )"
)


def keep_from_terminal() -> None:
    """From now on; does nothing where `sys.stderr` is not the process's own (under a test's capture)."""
    try:
        if sys.stderr.fileno() != 2:
            return
    except (AttributeError, OSError, ValueError):
        return
    real = os.dup(2)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    sys.stderr = os.fdopen(os.dup(real), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    threading.Thread(target=_pass_on, args=(reader, real), name="native log", daemon=True).start()


def _pass_on(reader: int, real: int) -> None:
    with os.fdopen(reader, "rb", buffering=0) as source:
        rest = b""
        while piece := source.read(65536):
            *lines, rest = (rest + piece).split(b"\n")
            kept = b"".join(line + b"\n" for line in lines if not _NOISE.match(line))
            if kept:
                os.write(real, kept)
