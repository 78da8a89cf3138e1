"""The search for the largest batch, on made-up memories and on a real step."""

import logging
import os
import subprocess

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

    def trial(asked, environment):
        batch = asked["batch"]
        tried.append(batch)
        return Trial(batch, int(1e9 + each * 1e9 * batch), int(there * 1e9))

    monkeypatch.setattr(auto_batch, "_trial", trial)
    assert largest_batch(spec, False) == wanted
    assert len(tried) <= 5


@pytest.mark.parametrize("most", [1, 3, 8, 21, 100])
def test_a_batch_that_ends_its_process_bounds_the_search(spec, monkeypatch, most):
    def trial(asked, environment):
        batch = asked["batch"]
        return Trial(batch, batch, 10**12) if batch <= most else None

    monkeypatch.setattr(auto_batch, "_trial", trial)
    found = largest_batch(spec, False)
    assert 0.6 * most <= found <= most


def test_no_memory_at_all(spec, monkeypatch):
    monkeypatch.setattr(auto_batch, "_trial", lambda asked, environment: None)
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
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(trainer, "training_index", lambda spec: range(40))
    monkeypatch.setattr(trainer, "largest_batch", lambda spec, use_amp, most, devices, gpus: min(fits, most))
    monkeypatch.setattr(
        trainer, "_train", lambda spec, folder, checkpoints, request, index: trained.append((spec, index))
    )
    trainer.train(spec, "results", trainer.Request(auto_batch=True, **devices))
    assert said in caplog.text
    (used, index), batch = trained[0], int(said.split()[2])
    assert used.training.batch_size == batch and index == range(40)


@pytest.mark.parametrize(
    ("devices", "shown"), [({"gpu_index": [2, 1]}, "6,5"), ({"gpus": 2}, "4,5"), ({"gpu_index": [1]}, "5")]
)
def test_trials_and_the_run_take_the_same_gpus(spec, monkeypatch, tmp_path, devices, shown):
    """The parent is not to touch them before; what it shows its trials must not be hidden from itself."""
    tried = []

    def trial(asked, environment):
        tried.append((environment["CUDA_VISIBLE_DEVICES"], asked["devices"]))
        return Trial(asked["batch"], 2 * asked["batch"], 10)

    def chosen(gpus, gpu_index, cluster):
        raise RunError(os.environ["CUDA_VISIBLE_DEVICES"])

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.setattr(trainer, "training_index", lambda spec: range(40))
    monkeypatch.setattr(auto_batch, "_trial", trial)
    monkeypatch.setattr(trainer.distribution, "choose_device", chosen)
    with pytest.raises(RunError) as caught:
        trainer.train(spec, tmp_path / "results", trainer.Request(auto_batch=True, **devices))
    assert caught.value.message == shown
    assert set(tried) == {(shown, len(shown.split(",")))}


@pytest.mark.parametrize(
    ("code", "said", "fits"),
    [(0, "ran out of memory trying to allocate 9 GiB. This is not a failure", True), (1, "OOM when allocating", False)],
)
def test_only_a_trial_that_failed_was_out_of_memory(monkeypatch, code, said, fits):
    found = subprocess.CompletedProcess([], code, '{"peak": 5, "limit": 10}\n', said)
    monkeypatch.setattr(auto_batch.subprocess, "run", lambda *_, **__: found)
    asked = {"spec": "", "batch": 4, "use_amp": False, "devices": 1}
    assert auto_batch._trial(asked, {}) == (Trial(4, 5, 10) if fits else None)


def test_a_trial_measures_real_steps(spec, monkeypatch):
    replace(monkeypatch.setattr)
    found = auto_batch._try(spec, 2, use_amp=False, devices=1)
    assert 1e8 < found["peak"] < 1e11
    assert 1e8 < found["limit"] < 1e13


def test_the_spec_of_a_run_says_the_batch_it_had(spec):
    changed = with_batch_size(spec, 24)
    assert changed.training.batch_size == 24
    again = experiment_from_text(changed.text, "spec", "inference")
    assert again.training == changed.training
    assert again.network == spec.network
