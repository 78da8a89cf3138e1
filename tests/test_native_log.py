"""Native libraries' log lines stay off the terminal; all else that is written to descriptor 2 arrives."""

import subprocess
import sys

NOISE = "I0000 00:00:1795374292.06   13992 port.cc:153] oneDNN custom operations are on"
NODE = "\\t [[{{function_node cond_true_41}}{{node cond/DecodePng}}]]"


def stderr_of(body: str) -> tuple[str, int]:
    """What a process that keeps the noise away prints there, and how it ended."""
    script = f"import os, sys\nfrom ssd import native_log\nnative_log.keep_from_terminal()\n{body}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert not done.stdout
    return done.stderr, done.returncode


def test_log_lines_go_and_other_lines_stay():
    text, code = stderr_of(f"os.write(2, b'{NOISE}\\n{NODE}\\nkept\\nI am no log line\\n')")
    assert (text, code) == ("kept\nI am no log line\n", 0)


def test_python_writes_to_the_terminal_itself():
    assert stderr_of("print('said', file=sys.stderr)") == ("said\n", 0)


def test_the_last_words_of_a_crash_come_through():
    text, code = stderr_of(f"os.write(2, b'{NOISE}\\nterminate called without an active exception')\nos.abort()")
    assert text == "terminate called without an active exception"
    assert code < 0


def test_a_flood_of_lines_does_not_wait_for_the_interpreter():
    # From C, with the interpreter lock held, and more than a pipe holds.
    text, code = stderr_of(
        "import ctypes\nlibc = ctypes.PyDLL(None)\nlines = b'line\\n' * 100_000\n"
        "sent = 0\nwhile sent < len(lines): sent += libc.write(2, lines[sent:], len(lines) - sent)"
    )
    assert code == 0 and text == "line\n" * 100_000
