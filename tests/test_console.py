"""Lines for the terminal and for `--log_file`."""

import io
import logging
import sys

import pytest

from ssd import console


@pytest.fixture(autouse=True)
def logger():
    """The logger as it was, afterwards."""
    handlers, level, propagate = list(console.log.handlers), console.log.level, console.log.propagate
    yield
    for handler in console.log.handlers:
        handler.close()
    console.log.handlers[:], console.log.propagate = handlers, propagate
    console.log.setLevel(level)


def test_information_goes_to_stdout_and_warnings_to_stderr(capsys):
    console.set_up()
    console.say("so it is")
    console.warn("so it is not")
    console.log.debug("a detail")
    assert capsys.readouterr() == ("so it is\n", "warning: so it is not\n")


def test_quiet_leaves_warnings_and_verbose_adds_details(capsys):
    console.set_up(quiet=True)
    console.say("so it is")
    console.warn("so it is not")
    assert capsys.readouterr() == ("", "warning: so it is not\n")
    console.set_up(verbose=True)
    console.log.debug("a detail")
    assert "debug: a detail\n" in "".join(capsys.readouterr())


def test_the_log_file_is_appended_to_and_its_folder_made(tmp_path):
    file = tmp_path / "new" / "log.txt"
    for text in ("first", "second"):
        console.set_up(log_file=str(file))
        console.say(text)
    assert file.read_text() == "first\nsecond\n"


def test_what_the_terminal_cannot_show_is_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console.set_up()
    console.say("class größe")
    sys.stdout.flush()
    assert raw.getvalue() == rb"class gr\xf6\xdfe" + b"\n"


def test_a_reader_that_went_away_is_an_error_and_no_traceback(monkeypatch, capsys):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    console.set_up()
    assert logging.raiseExceptions
    with pytest.raises(BrokenPipeError):
        console.say("nobody reads this")
    assert "Traceback" not in capsys.readouterr().err
