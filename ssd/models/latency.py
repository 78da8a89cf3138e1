"""How long networks take for one image on the CPU, whatever else a machine has: on a GPU one image says little."""

import statistics
import time
from collections.abc import Sequence

import keras
import numpy as np

from ssd.console import progress

WARM_UP = 3  # calls: the first one compiles
RUNS = 40
SECONDS = 10.0  # for all networks together; slow ones get fewer runs
FEWEST = 5


def latencies(models: Sequence[keras.Model], seconds: float = SECONDS) -> list[float]:
    """Median milliseconds of each network for a batch of one image, without decoding and NMS.

    They take turns, so that whatever else the machine does falls on all of them.
    """
    with keras.device("cpu"):
        return _latencies(models, seconds)


def _latencies(models: Sequence[keras.Model], seconds: float) -> list[float]:
    runs = []
    for model in models:
        # A copy of each: compiling changes a model, and its weights may be on a GPU. TensorFlow's kernels beat XLA's on
        # CPUs.
        runner = keras.models.clone_model(model)
        runner.set_weights(model.get_weights())
        runner.compile(jit_compile=keras.backend.backend() != "tensorflow")
        image = np.zeros((1, *model.input_shape[1:]), "float32")
        for _ in range(WARM_UP):
            runner.predict_on_batch(image)
        runs.append((runner, image, []))
    began = time.perf_counter()
    for number in progress(range(RUNS), label="latency", unit="rounds"):
        for runner, image, times in runs:
            start = time.perf_counter()
            runner.predict_on_batch(image)
            times.append(time.perf_counter() - start)
        if number + 1 >= FEWEST and time.perf_counter() - began > seconds:
            break
    return [1000 * statistics.median(times) for *_, times in runs]
