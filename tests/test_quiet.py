"""Native start-up lines stay off the terminal, unless the import fails."""

import subprocess
import sys

NOISY = "import os\nos.write(2, b'native noise\\n')\nVALUE = 7\n"


def start(folder, code: str) -> subprocess.CompletedProcess:
    """Runs `code` after asking for a quiet import of `noisy`, a package in `folder`."""
    lines = f"import sys; sys.path.insert(0, {str(folder)!r})\nfrom ssd.quiet import import_quietly\n{code}"
    return subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)


def test_the_lines_are_dropped_and_the_stream_works_afterwards(tmp_path):
    (tmp_path / "noisy.py").write_text(NOISY)
    code = "import_quietly('noisy')\nimport noisy, os\nprint(noisy.VALUE)\nos.write(2, b'heard\\n')"
    done = start(tmp_path, code)
    assert (done.stdout, done.stderr) == ("7\n", "heard\n")


def test_a_failing_import_shows_what_was_written(tmp_path):
    (tmp_path / "noisy.py").write_text(NOISY + "raise ImportError('libfoo.so is missing')\n")
    done = start(tmp_path, "import_quietly('noisy')\nimport noisy")
    assert done.returncode == 1
    assert "native noise" in done.stderr
    assert "libfoo.so is missing" in done.stderr


def test_a_package_that_is_not_there_is_reported_as_ever(tmp_path):
    done = start(tmp_path, "import_quietly('noisy')\nimport noisy")
    assert "ModuleNotFoundError: No module named 'noisy'" in done.stderr


def test_a_closed_error_stream_does_no_harm(tmp_path):
    (tmp_path / "noisy.py").write_text("VALUE = 7\n")
    done = start(tmp_path, "import os\nos.close(2)\nimport_quietly('noisy')\nimport noisy\nprint(noisy.VALUE)")
    assert done.stdout == "7\n"
