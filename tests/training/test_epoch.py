"""Steps at which the losses are looked at."""

import time
from types import SimpleNamespace

from ssd.data.share import ALONE, Share
from ssd.training.epoch import _time_to_look


def run_of(share: Share):
    return SimpleNamespace(device=SimpleNamespace(share=share))


def test_one_process_looks_when_a_second_has_passed():
    now = time.perf_counter()
    assert [_time_to_look(run_of(ALONE), 16, looked) for looked in (now - 2, now + 60)] == [True, False]


def test_processes_that_train_together_look_at_the_same_steps_however_long_they_took():
    now = time.perf_counter()
    for looked in (now - 2, now + 60):
        looks = [step for step in range(1, 50) if _time_to_look(run_of(Share(1, 2, 2)), step, looked)]
        assert looks == [16, 32, 48]
