"""How long until the command answers, and until it trains?

    python scripts/benchmarks/start_up.py

Whole processes, started anew each time, the file cache warm. The last line is a run of `ssd train` on a small spec,
from its start to the end of the first step; it ends there.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import arguments, machine, machine_line, spread, spread_text, write_json

ROOT = Path(__file__).resolve().parents[2]
HELP_LIMIT = 0.3  # seconds
FIRST_STEP = """
import os, sys
from ssd.cli import main
from ssd.training.step import TrainingModel
step = TrainingModel.train_on_batch
def first(self, *args, **kwargs):
    step(self, *args, **kwargs)
    self.totals()
    os._exit(0)
TrainingModel.train_on_batch = first
main(sys.argv[1:])
sys.exit("no step was taken")
"""


def main() -> None:
    args = arguments(__doc__, rounds=5).parse_args()
    about, found = machine(), {}
    print(machine_line(about))
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "ssd --help": ["-m", "ssd", "--help"],
            "ssd train --help": ["-m", "ssd", "train", "--help"],
            "import ssd": ["-c", "import ssd"],
            "python alone": ["-c", "pass"],
            "ssd train to its first step": [
                "-c",
                FIRST_STEP,
                "train",
                "-e",
                small_spec(Path(folder)),
                "-r",
                f"{folder}/results",
            ],
        }
        for run in commands.values():
            seconds_of(run)
        rounds = [{name: seconds_of(run) for name, run in commands.items()} for _ in range(args.rounds)]
    print(f"{'':30}{'seconds, median (range)':>28}")
    for name in commands:
        found[name] = spread([turn[name] for turn in rounds])
        print(f"{name:30}{spread_text(found[name], 3):>28}{limit(name, found[name])}")
    write_json(args.json, {"machine": about, "help_limit": HELP_LIMIT, "seconds": found})


def limit(name: str, found: dict) -> str:
    if not name.endswith("--help"):
        return ""
    return f"   limit {HELP_LIMIT}: {'kept' if found['median'] <= HELP_LIMIT else 'MISSED'}"


def seconds_of(run: list[str]) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    subprocess.run([sys.executable, *run], check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


def small_spec(folder: Path) -> str:
    """A spec of a small network on a few made photographs; returns its path."""
    from sample import photographs

    source = photographs(folder, 16)
    folders = f'image_directory_path: "{source.image_dir}"\n label_directory_path: "{source.label_dir}"'
    text = (ROOT / "specs/ssd_mobilenet_v1_kitti.txt").read_text()
    text = re.sub(r"tfrecords_path: .*", folders, text).replace("300", "128")
    path = folder / "spec.txt"
    path.write_text(text)
    return str(path)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
