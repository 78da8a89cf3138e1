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
        """`predicting: 31.2 images/s; batches of 8 take 251.0 ms (50 %), 290.1 ms (95 %), 301.7 ms (99 %)`."""
        size, seconds, warm = self._usual()
        if not size:
            return "predicting: no image"
        batches = f"batches of {size} take" if size > 1 else "an image takes"
        if not warm:
            return f"predicting: {batches} {seconds[0] * 1000:.1f} ms, the first time, with preparations"
        rate = size * len(seconds) / seconds.sum()
        half, most, nearly = np.percentile(seconds, (50, 95, 99)) * 1000
        times = f"{half:.1f} ms (50 %), {most:.1f} ms (95 %), {nearly:.1f} ms (99 %)"
        return f"predicting: {rate:.1f} images/s; {batches} {times}"

    def facts(self) -> dict:
        """The same for programs; `with_compilation`: there was no second batch to measure."""
        size, seconds, warm = self._usual()
        if not size:
            return {}
        half, most, nearly = (float(value) for value in np.percentile(seconds, (50, 95, 99)) * 1000)
        return {
            "batch_size": size,
            "predict_images_per_second": float(size * len(seconds) / seconds.sum()),
            "latency_ms": {"p50": half, "p95": most, "p99": nearly},
            "with_compilation": not warm,
        }

    def _usual(self) -> tuple[int, np.ndarray, bool]:
        """The usual batch size, the larger of two that are equally so; seconds of its batches; whether without the
        first."""
        sizes = [images for images, _ in self._batches]
        if not sizes:
            return 0, np.zeros(0), False
        size = max(set(sizes), key=lambda each: (sizes.count(each), each))
        seconds = np.array([each for images, each in self._batches if images == size])
        return (size, seconds[1:], True) if len(seconds) > 1 else (size, seconds, False)
