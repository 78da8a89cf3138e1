#!/usr/bin/env python3
"""Kills a training run with -9 at random moments, resumes it each time, and compares the end with an unbroken run's.

    python scripts/kill_and_resume.py -e specs/demo_train.txt -r /tmp/kills --kills 10

trains the spec twice with --deterministic: once in one go (results_dir/unbroken), once killed and resumed (results_dir/
killed). A kill comes after a random part of the time that the unbroken run took. Ends with 0 if every number of the two
last checkpoints is the same to the bit: weights, averages, optimizer, counters.
"""

import argparse
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ssd.models.checkpoint import load_model, read_state


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-e", "--experiment_spec_file", required=True)
    parser.add_argument("-r", "--results_dir", required=True, type=Path, help="a new folder")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.results_dir.exists() and any(args.results_dir.iterdir()):
        parser.error(f"{args.results_dir} is not empty")
    rng = random.Random(args.seed)

    unbroken, killed = args.results_dir / "unbroken", args.results_dir / "killed"
    began = time.monotonic()
    Training(args.experiment_spec_file, unbroken).check()
    seconds = time.monotonic() - began
    epochs = read_state(last(unbroken))[0]["history"]
    training = len(epochs) * float(np.median([row["seconds"] for row in epochs]))
    start = seconds - training  # imports and compiling, which every life pays anew
    print(f"unbroken: {seconds:.0f} s, {start:.0f} of them to start; {len(epochs)} epochs")

    print("kill  after s  resumes from")
    number = 0
    while number < args.kills:
        # So long that, on the average, the kills spread over the run.
        life = rng.uniform(0.3 * start, start + 1.7 * training / args.kills)
        run = Training(args.experiment_spec_file, killed)
        if not run.kill_after(life):
            print(f"      the run ended by itself before kill {number + 1}")
            break
        number += 1
        print(f"{number:4d}  {life:7.1f}  {position(killed)}", flush=True)
    Training(args.experiment_spec_file, killed).check()

    different = differences(last(unbroken), last(killed))
    total = len(numbers(last(unbroken)))
    print(f"{total - len(different)} of {total} arrays are the same to the bit")
    for name in different[:10]:
        print(f"    {name} differs")
    return 1 if different else 0


class Training:
    """`ssd train --deterministic` as a process, resumed where there is something to resume."""

    def __init__(self, spec: str, folder: Path):
        command = [sys.executable, "-m", "ssd", "train", "-e", spec, "-r", str(folder), "--deterministic", "-q"]
        if list(folder.glob("weights/[!.]*.keras")):
            command.append("--resume")
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def check(self) -> None:
        """Waits; ends this script where the run failed."""
        _, errors = self.process.communicate()
        if self.process.returncode:
            sys.exit(f"training failed with {self.process.returncode}:\n{errors}")

    def kill_after(self, seconds: float) -> bool:
        """Kills -9; False where the run ended before."""
        try:
            self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate()
            return True
        self.check()
        return False


def last(folder: Path) -> Path:
    return next(folder.glob("weights/[!.]*_last.keras"))


def position(folder: Path) -> str:
    """What the next run begins with."""
    if not list(folder.glob("weights/[!.]*_last.keras")):
        return "the beginning"
    return f"epoch {read_state(last(folder))[0]['epoch']}"


def numbers(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint: the network's weights and the state beside it."""
    artifact = load_model(path, verb=None)
    return {**artifact.arrays, **{weight.path: np.asarray(weight.numpy()) for weight in artifact.model.weights}}


def differences(one: Path, other: Path) -> list[str]:
    found, wanted = numbers(one), numbers(other)
    assert found.keys() == wanted.keys()
    return [name for name in found if not np.array_equal(found[name], wanted[name])]


if __name__ == "__main__":
    sys.exit(main())
