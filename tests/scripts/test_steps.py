"""What the scripts repeat and what not: a step is known by its command and by the files that this names."""

import subprocess
from pathlib import Path

import pytest

STEPS = Path(__file__).parents[2] / "scripts" / "steps.sh"


@pytest.fixture
def shell(tmp_path):
    """`shell(line)`: its output, after sourcing the steps, in a folder of its own."""

    def run(line: str) -> str:
        script = f"set -eu; . {STEPS}; {line}"
        done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_step_is_done_once_for_a_command_and_its_files(shell, tmp_path):
    (tmp_path / "model").write_text("a")
    line = "step out/.cat cat model"
    assert shell(line) == "\n$ cat model\na"
    assert "out/.cat: done before" in shell(line)
    assert int((tmp_path / "out/.cat").read_text().split()[0]) < 10
    assert "$ cat -u model" in shell("step out/.cat cat -u model")
    (tmp_path / "model").write_text("b")
    assert shell("step out/.cat cat -u model").endswith("b")
    assert shell("step other/.cat cat -u model").endswith("b")  # a mark of the same name elsewhere
    assert "done before" not in shell("step out/.false false || true; step out/.false false || true")


def test_a_training_is_resumed_where_the_same_one_began(shell, tmp_path):
    (tmp_path / "model").write_text("a")
    line = "resumable run echo train -m model -r run --use_amp"
    assert shell(line) == "train -m model -r run --use_amp\n"
    assert shell(line) == "train -m model -r run --use_amp\n"  # it left no checkpoint
    (tmp_path / "run/weights").mkdir()
    (tmp_path / "run/weights/last.keras").touch()
    assert shell(line) == "train -r run --use_amp --resume\n"
    (tmp_path / "model").write_text("b")  # with another model it is another training, which is refused there
    assert shell(line) == shell(line) == "train -m model -r run --use_amp\n"
