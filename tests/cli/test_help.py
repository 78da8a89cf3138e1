"""The installed command answers at once and knows its verbs."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssd import __version__

SSD = Path(sys.executable).with_name("ssd")
VERBS = ("dataset_convert", "train", "evaluate", "inference")


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([SSD, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments", [("--help",), ("train", "--help")], ids=" ".join)
def test_help_is_quick(arguments):
    run(*arguments)  # the first run compiles the modules
    times = []
    for _ in range(7):
        start = time.perf_counter()
        assert run(*arguments).returncode == 0
        times.append(time.perf_counter() - start)
    # The least of several: a busy machine delays some of them, and no run can be quicker than the work it does.
    assert min(times) < 0.3


def test_help_names_every_verb():
    done = run("--help")
    assert done.returncode == 0
    for verb in VERBS:
        assert verb in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_for_its_flags(verb):
    done = run(verb, "--help")
    assert done.returncode == 0
    assert "--log_file" in done.stdout and "--results_dir" in done.stdout
    assert done.stderr == ""


def test_version():
    assert run("--version").stdout.strip() == f"ssd {__version__}"


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "ssd", "--version"], capture_output=True, text=True)
    assert done.stdout.strip() == f"ssd {__version__}"


@pytest.mark.parametrize("arguments", [(), ("tarin",), ("train", "--no_such_flag"), ("--gpus", "2")], ids=str)
def test_wrong_usage_exits_with_2_and_says_why(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: ssd" in done.stderr
    assert "Traceback" not in done.stderr
