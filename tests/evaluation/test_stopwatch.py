"""What is said of a predictor's speed, on a clock that the predictor moves."""

import numpy as np
import pytest

from ssd.evaluation import stopwatch
from ssd.evaluation.stopwatch import Stopwatch


@pytest.fixture
def timed(monkeypatch):
    """`timed((images, seconds), ...)`: a stopwatch that has seen these batches."""

    def run(*batches):
        clock = [0.0]
        monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock[0])
        seconds = iter([each for _, each in batches])

        def predict(images):
            clock[0] += next(seconds)
            return len(images)

        watch = Stopwatch(predict)
        assert [watch(np.zeros(count)) for count, _ in batches] == [count for count, _ in batches]
        return watch

    return run


def test_the_first_batch_is_left_out(timed):
    watch = timed((8, 9.0), (8, 0.2), (8, 0.4), (3, 5.0))
    assert watch.line() == (
        "predicting: 26.7 images/s; batches of 8 take 300.0 ms (50 %), 390.0 ms (95 %), 398.0 ms (99 %)"
    )
    facts = watch.facts()
    assert (facts["batch_size"], facts["with_compilation"]) == (8, False)
    assert facts["predict_images_per_second"] == pytest.approx(16 / 0.6)
    assert facts["latency_ms"] == pytest.approx({"p50": 300, "p95": 390, "p99": 398})


@pytest.mark.parametrize("batches", [((8, 4.0), (3, 0.1)), ((3, 0.1), (8, 4.0)), ((8, 4.0),)])
def test_one_batch_is_said_to_have_compiled_and_a_rest_is_not_the_usual_size(batches, timed):
    watch = timed(*batches)
    assert watch.line() == "predicting: batches of 8 take 4000.0 ms, the first time, with preparations"
    assert watch.facts()["with_compilation"] is True and watch.facts()["batch_size"] == 8


def test_images_one_by_one_and_none(timed):
    assert timed((1, 1.0), (1, 0.01)).line().startswith("predicting: 100.0 images/s; an image takes 10.0 ms (50 %)")
    assert timed().line() == "predicting: no image" and timed().facts() == {}
