"""The search for the largest batch, on made-up memories and on a real step."""

import logging

import pytest
from tiny_network import replace

from ssd.errors import RunError
from ssd.spec import experiment_from_text, with_batch_size
from ssd.training import auto_batch, trainer
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


@pytest.mark.parametrize(
    ("devices", "fits", "said"),
    [
        ({"gpus": 2}, 100, "batches of 20 images a device, for there are 40 training images;"),
        ({"gpus": 2, "gpu_index": [3, 4, 5]}, 100, "batches of 13 images a device, for there are 40 training images;"),
        ({"gpus": 2}, 7, "batches of 7 images a device;"),
        ({"gpus": 64}, 7, "batches of 1 image a device, for there are 40 training images;"),
    ],
)
def test_a_run_is_told_its_batch_and_what_bounds_it(spec, monkeypatch, caplog, devices, fits, said):
    trained = []
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(trainer.distribution, "hide_other_gpus", lambda *_: None)
    monkeypatch.setattr(trainer, "training_index", lambda spec: range(40))
    monkeypatch.setattr(trainer, "largest_batch", lambda spec, use_amp, most: min(fits, most))
    monkeypatch.setattr(trainer, "_train", lambda spec, folder, request, index: trained.append((spec, index)))
    trainer.train(spec, "results", trainer.Request(auto_batch=True, **devices))
    assert said in caplog.text
    (used, index), batch = trained[0], int(said.split()[2])
    assert used.training.batch_size == batch and index == range(40)


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
