"""What the command line settles before a verb runs."""

import os
import signal

import pytest

from ssd.cli import main

VERB = ["inference", "-m", "model.keras", "-i", "pictures"]


@pytest.mark.parametrize(
    ("backend", "said"),
    [("nonsense", "KERAS_BACKEND is nonsense, allowed: tensorflow, jax"), ("jax", "which is not installed")],
)
def test_an_unusable_backend_is_bad_input(monkeypatch, capsys, backend, said):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(VERB) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_flag_shows_the_usage_of_its_verb(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*VERB, "--frobnicate"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "ssd inference" in error and "--frobnicate" in error


def test_a_missing_model_is_said_at_once(capsys):
    assert main(VERB) == 2
    assert "-m/--model_path model.keras: no such model file" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_what_runs(number, monkeypatch, capsys):
    left = []

    def run(args):
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            left.append("the block")

    inherited = signal.signal(number, signal.SIG_DFL)  # what starts the tests may ignore it
    monkeypatch.setattr("ssd.commands.inference.run", run)
    assert main(VERB) == 128 + number
    assert left == ["the block"] and "terminated" in capsys.readouterr().err
    assert signal.signal(number, inherited) is signal.SIG_DFL
