#!/usr/bin/env python3
"""Kills a training run with -9 at random moments, resumes it each time, and compares the end with an unbroken run's.

    python scripts/kill_and_resume.py -e specs/demo_train.txt -r /tmp/kills --kills 10

trains the spec twice with --deterministic: once in one go (results_dir/unbroken), once killed and resumed (results_dir/
killed). The moments are drawn beforehand, as fractional numbers of epochs. Ends with 0 if every kill happened and every
number of the two last checkpoints is the same to the bit: weights, averages, optimizer, counters.
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
    parser.add_argument("-m", "--resume_model_weights", help="initial weights of both runs, a pruned model for example")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.results_dir.exists() and any(args.results_dir.iterdir()):
        parser.error(f"{args.results_dir} is not empty")
    rng = random.Random(args.seed)

    unbroken, killed = args.results_dir / "unbroken", args.results_dir / "killed"
    Training(args, unbroken).finish()
    rows = read_state(last(unbroken))[0]["history"]
    pace = float(np.median([row["seconds"] for row in rows]))
    print(f"unbroken: {len(rows)} epochs of {pace:.1f} s")

    print("kill  aimed at epoch  next run begins after")
    # Not in the last epoch: something must be left to train.
    moments = sorted(rng.uniform(0, len(rows) - 1) for _ in range(args.kills))
    for number, moment in enumerate(moments, start=1):
        Training(args, killed).kill_at(moment, pace)
        print(f"{number:4d}  {moment:14.2f}  epoch {epoch_of(killed) or 0}", flush=True)
    Training(args, killed).finish()

    different = differences(last(unbroken), last(killed))
    total = len(numbers(last(unbroken)))
    print(f"{total - len(different)} of {total} arrays are the same to the bit")
    for name in different[:10]:
        print(f"    {name} differs")
    return 1 if different else 0


class Training:
    """`ssd train --deterministic` as a process, resumed where there is something to resume."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.epoch = epoch_of(folder)  # to go on after
        command = [sys.executable, "-m", "ssd", "train", "-e", args.experiment_spec_file, "-r", str(folder)]
        weights = ["-m", args.resume_model_weights] if args.resume_model_weights else []
        command += ["--deterministic", *(weights if self.epoch is None else ["--resume"])]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def finish(self) -> None:
        """Waits; ends this script where the run failed."""
        self.process.communicate()
        if self.process.returncode:
            sys.exit(f"training failed with {self.process.returncode}")

    def kill_at(self, moment: float, pace: float) -> None:
        """Kills -9 at a fractional epoch, or, where the run begins behind it, while it starts or in its first epoch.

        Args:
            pace: seconds of an epoch.
        """
        began, done = time.monotonic(), self.epoch or 0
        for line in self.process.stdout:
            if line.startswith("epoch "):
                done = int(line.split()[1].split("/")[0])
                wait = moment % 1 * pace
            elif " training images in " in line:
                # The first epoch compiles, which takes about as long as coming this far.
                wait = moment % 1 * (time.monotonic() - began)
            else:
                continue
            if done >= int(moment):
                time.sleep(wait)
                break
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        if self.process.returncode != -signal.SIGKILL:
            sys.exit(f"the run ended with {self.process.returncode} before it could be killed")


def last(folder: Path) -> Path:
    return next(folder.glob("weights/[!.]*_last.keras"))


def epoch_of(folder: Path) -> int | None:
    """The last whole epoch of a run; None before the first."""
    return read_state(last(folder))[0]["epoch"] if list(folder.glob("weights/[!.]*_last.keras")) else None


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
