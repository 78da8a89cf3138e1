"""The largest batch that a training step has memory for: steps of real size, each in a process of its own.

    python -m ssd.training.auto_batch < {"spec": ..., "batch": 16, "use_amp": false, "devices": 1}

is one of those processes; it prints the memory that two steps took and what there is. One that runs out of memory ends,
and nothing else with it.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

from ssd.console import say
from ssd.errors import InputError, RunError
from ssd.spec import experiment_from_text
from ssd.spec.config import Experiment

SHARE = 0.85  # of the memory that is there: ground truth varies, and the loader needs some
MOST = 256  # images: devices gain nothing beyond, and the updates become few
TRIES = 8
ROUND = 8
# What the backends say of it.
OUT_OF_MEMORY = ("ResourceExhausted", "RESOURCE_EXHAUSTED", "OOM when", "out of memory", "MemoryError")


@dataclass(frozen=True)
class Trial:
    """Bytes: the most that two steps with `batch` images held, and what the device has for them."""

    batch: int
    peak: int
    limit: int

    @property
    def fits(self) -> bool:
        return self.peak <= SHARE * self.limit


def largest_batch(spec: Experiment, use_amp: bool, most: int = MOST, devices: int = 1, gpus: str | None = None) -> int:
    """Images per device, at most `most`, where `devices` train together: `gpus`, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        RunError: not even one image fits.
    """
    environment = {**os.environ, **({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})}

    def trial(batch: int) -> Trial | None:
        return _trial({"spec": spec.text, "batch": batch, "use_amp": use_amp, "devices": devices}, environment)

    batch = min(max(spec.training.batch_size, 1), ROUND, most)
    first = trial(batch)
    while (first is None or not first.fits) and batch > 1:
        batch //= 2
        first = trial(batch)
    if first is None or not first.fits:
        raise RunError(
            "--auto_batch: there is no memory for a batch of one image", hint="a smaller network or input needs less"
        )
    best, before, limit = first, None, min(most, MOST)
    following = 2 * batch
    for _ in range(TRIES):
        following = min(_rounded(following), limit)
        if following <= best.batch:
            break
        found = trial(following)
        if found is None or not found.fits:
            limit = following - 1
            following = (best.batch + following) // 2
            continue
        best, before = found, best
        following = _predicted(before, best)
    return best.batch


def _predicted(smaller: Trial, larger: Trial) -> int:
    """Where the line through two trials reaches what may be taken."""
    slope = (larger.peak - smaller.peak) / (larger.batch - smaller.batch)
    return larger.batch + int((SHARE * larger.limit - larger.peak) / max(slope, 1.0))


def _rounded(batch: int) -> int:
    return batch // ROUND * ROUND if batch >= 2 * ROUND else batch


def _trial(asked: dict, environment: dict[str, str]) -> Trial | None:
    """None where the process ran out of memory. Raises RunError where it failed otherwise."""
    command, batch = [sys.executable, "-m", "ssd.training.auto_batch"], asked["batch"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, env=environment)
    if done.returncode == -signal.SIGKILL or (
        done.returncode and any(sign in done.stderr for sign in OUT_OF_MEMORY)  # else a warning, which ended well
    ):
        say(f"--auto_batch: {batch} images: out of memory")
        return None
    if done.returncode == InputError.exit_code and (answer := _answer(done.stdout)):
        raise InputError(**answer)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"--auto_batch: a step with {batch} images failed: {reason}")
    trial = Trial(batch, **_answer(done.stdout))
    say(f"--auto_batch: {batch} images: {trial.peak / 1e9:.2f} of {trial.limit / 1e9:.2f} GB")
    return trial


def _answer(out: str) -> dict:
    """The last line of a trial's output, behind what libraries print."""
    return json.loads(out.splitlines()[-1]) if out.strip() else {}


def _try(spec: Experiment, batch: int, use_amp: bool, devices: int) -> dict:
    """Two steps on made-up data in this process."""
    import numpy as np

    from ssd.training import distribution, hardware
    from ssd.training.pixels import unchanged
    from ssd.training.run import build
    from ssd.training.shapes import keyed, keyed_pixels

    device = distribution.choose_device(devices, None)
    hardware.set_precision(use_amp, device)
    limit, images = hardware.free_memory(device), batch * devices
    shape = (images, spec.augmentation.height, spec.augmentation.width, 3)
    pixels = unchanged(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    boxes, classes = np.zeros((images, 32, 4), np.float32), np.ones((images, 32), np.int32)
    boxes[:] = (0.25, 0.25, 0.75, 0.75)
    with distribution.together(device):
        training, _ = build(spec, steps=1, devices=devices)
        for _ in range(2):
            training.train_on_batch(
                keyed_pixels(pixels, images, device.share), keyed({"boxes": boxes, "classes": classes})
            )
            training.totals()  # waits for the device
    return {"peak": hardware.peak_memory(device), "limit": limit}


def main() -> None:
    asked = json.load(sys.stdin)
    spec = experiment_from_text(asked.pop("spec"), "spec", "inference")
    try:
        print(json.dumps(_try(spec, **asked)))
    except InputError as error:  # GPUs that are not there
        print(json.dumps({"message": error.message, "hint": error.hint}))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
