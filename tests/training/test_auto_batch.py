"""The search for the largest batch, on made-up memories and on a real step."""

import pytest
from tiny_network import replace

from ssd.errors import RunError
from ssd.spec import experiment_from_text, with_batch_size
from ssd.training import auto_batch
from ssd.training.auto_batch import Trial, largest_batch


@pytest.fixture
def spec(spec_text):
    return experiment_from_text(spec_text("unused", "unused"), "spec", "inference")


@pytest.mark.parametrize(
    ("each", "there", "wanted"),
    [
        (0.1, 10.0, 72),  # (0.85 * 10 - 1) / 0.1 = 75
        (0.001, 10.0, auto_batch.MOST),
        (1.5, 10.0, 5),
        (4.0, 10.0, 1),
    ],
)
def test_the_line_through_two_trials_leads_there(spec, monkeypatch, each, there, wanted):
    tried = []

    def trial(spec, batch, use_amp):
        tried.append(batch)
        return Trial(batch, int(1e9 + each * 1e9 * batch), int(there * 1e9))

    monkeypatch.setattr(auto_batch, "_trial", trial)
    assert largest_batch(spec, False) == wanted
    assert len(tried) <= 5


@pytest.mark.parametrize("most", [1, 3, 8, 21, 100])
def test_a_batch_that_ends_its_process_bounds_the_search(spec, monkeypatch, most):
    def trial(spec, batch, use_amp):
        return Trial(batch, batch, 10**12) if batch <= most else None

    monkeypatch.setattr(auto_batch, "_trial", trial)
    found = largest_batch(spec, False)
    assert 0.6 * most <= found <= most


def test_no_memory_at_all(spec, monkeypatch):
    monkeypatch.setattr(auto_batch, "_trial", lambda spec, batch, use_amp: None)
    with pytest.raises(RunError, match="no memory for a batch of one image"):
        largest_batch(spec, False)


def test_a_trial_measures_real_steps(spec, monkeypatch):
    replace(monkeypatch.setattr)
    found = auto_batch._try(spec, 2, use_amp=False)
    assert 1e8 < found["peak"] < 1e11
    assert 1e8 < found["limit"] < 1e13


def test_the_spec_of_a_run_says_the_batch_it_had(spec):
    changed = with_batch_size(spec, 24)
    assert changed.training.batch_size == 24
    again = experiment_from_text(changed.text, "spec", "inference")
    assert again.training == changed.training
    assert again.network == spec.network
