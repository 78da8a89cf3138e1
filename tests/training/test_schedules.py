import math

import numpy as np
import pytest

from ssd.spec.config import Schedule
from ssd.training.schedules import SoftStart

ANNEALING = Schedule("annealing", 5e-5, 2e-2, 0.15, 0.8)


@pytest.mark.parametrize(
    ("progress", "rate"),
    [
        (0, 5.000e-5),
        (0.05, 3.684e-4),
        (0.075, 1.000e-3),
        (0.15, 2.000e-2),
        (0.5, 2.000e-2),
        (0.8, 2.000e-2),
        (0.85, 4.472e-3),
        (0.9, 1.000e-3),
        (1, 5.000e-5),
    ],
)
def test_soft_start_annealing_gives_the_known_rates(progress, rate):
    assert SoftStart(ANNEALING, 1000).at(round(progress * 1000)) == pytest.approx(rate, rel=2e-4)


def test_both_rates_grow_with_the_devices():
    one, four = SoftStart(ANNEALING, 100), SoftStart(ANNEALING, 100, devices=4)
    for step in (0, 7, 50, 90, 100):
        assert four.at(step) == pytest.approx(4 * one.at(step), rel=1e-5)


def test_cosine_warms_up_in_a_line_and_comes_down_to_the_minimum():
    schedule = SoftStart(Schedule("cosine", 1e-5, 1e-2, 0.2, None), 100)
    rates = np.array([schedule.at(step) for step in range(101)])
    assert rates[0] == pytest.approx(1e-5)
    assert rates[10] == pytest.approx((1e-5 + 1e-2) / 2)
    assert rates[20] == pytest.approx(1e-2)
    assert rates[60] == pytest.approx((1e-5 + 1e-2) / 2, rel=1e-4)  # half of the cosine, half of what is left
    assert rates[100] == pytest.approx(1e-5, rel=1e-3)
    assert (np.diff(rates[20:]) < 0).all()


def test_no_soft_start_and_no_annealing():
    assert SoftStart(Schedule("annealing", 1e-4, 1e-2, 0.0, 1.0), 10).at(0) == pytest.approx(1e-2)
    assert SoftStart(Schedule("annealing", 1e-4, 1e-2, 0.0, 1.0), 10).at(10) == pytest.approx(1e-2)
    cosine = SoftStart(Schedule("cosine", 1e-4, 1e-2, 0.0, None), 10)
    assert cosine.at(0) == pytest.approx(1e-2)
    assert cosine.at(5) == pytest.approx(1e-4 + (1e-2 - 1e-4) * (1 + math.cos(math.pi / 2)) / 2)


def test_steps_behind_the_end_stay_at_the_minimum():
    assert SoftStart(ANNEALING, 100).at(130) == pytest.approx(5e-5, rel=1e-4)
