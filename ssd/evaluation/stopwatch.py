"""How long predictions take: throughput and percentiles of latency."""

import time
from collections.abc import Callable

import numpy as np


class Stopwatch:
    """A predictor's `predict` that remembers how long each batch took.

    The first batch of a size is left out where there are others: it compiles and fills caches.
    """

    def __init__(self, predict: Callable):
        self._predict = predict
        self._batches: list[tuple[int, float]] = []  # images, seconds

    def __call__(self, images):
        start = time.perf_counter()
        found = self._predict(images)
        self._batches.append((len(images), time.perf_counter() - start))
        return found

    def line(self) -> str:
        """`predicting: 31.2 images/s; batches of 8 take 251 ms (half of them), 290 ms (95 %), 301 ms (99 %)`."""
        size, seconds = self._usual()
        if not len(seconds):
            return "predicting: no image"
        rate = size * len(seconds) / seconds.sum()
        half, most, nearly = np.percentile(seconds, (50, 95, 99)) * 1000
        batches = f"batches of {size} take" if size > 1 else "an image takes"
        times = f"{half:.1f} ms (50 %), {most:.1f} ms (95 %), {nearly:.1f} ms (99 %)"
        return f"predicting: {rate:.1f} images/s; {batches} {times}"

    def facts(self) -> dict:
        """The same for programs."""
        size, seconds = self._usual()
        if not len(seconds):
            return {}
        half, most, nearly = (float(value) for value in np.percentile(seconds, (50, 95, 99)) * 1000)
        rate = float(size * len(seconds) / seconds.sum())
        latency = {"p50": half, "p95": most, "p99": nearly}
        return {"batch_size": size, "predict_images_per_second": rate, "latency_ms": latency}

    def _usual(self) -> tuple[int, np.ndarray]:
        """The usual batch size and the seconds of its batches."""
        if not self._batches:
            return 0, np.zeros(0)
        sizes = [images for images, _ in self._batches]
        size = max(set(sizes), key=sizes.count)
        seconds = np.array([each for images, each in self._batches if images == size])
        return size, seconds[1:] if len(seconds) > 1 else seconds
