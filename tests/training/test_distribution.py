"""Several devices and processes compute what one does; one that is lost ends the run, which then goes on."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssd.models.checkpoint import read_state
from ssd.training.distribution import hide_other_gpus

PROGRAM = Path(__file__).with_name("together.py")
# 11 images: batches of 8 and 3, which neither 2 nor 4 devices divide.
SPEC = """
random_seed: 7
ssd_config {{ arch: "resnet" nlayers: 10 scales: "[0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]" aspect_ratios_global: "[1.0]"
  variances: "[0.1, 0.1, 0.2, 0.2]" }}
training_config {{
  batch_size_per_gpu: {batch} num_epochs: {epochs}
  learning_rate {{ soft_start_annealing_schedule {{
    min_learning_rate: {rate} max_learning_rate: {rate} soft_start: 0.1 annealing: 0.6 }} }}
  regularizer {{ type: L2 weight: 1e-4 }} checkpoint_interval: 100 model_ema: true
}}
eval_config {{ validation_period_during_training: 1 average_precision_mode: INTEGRATE batch_size: 4 }}
nms_config {{ confidence_threshold: 0.05 clustering_iou_threshold: 0.5 top_k: 20 }}
augmentation_config {{ output_width: 128 output_height: 128 output_channel: 3 }}
dataset_config {{
  data_sources {{ image_directory_path: "{data}/images" label_directory_path: "{data}/labels" }}
  validation_data_sources {{ image_directory_path: "{data}/images" label_directory_path: "{data}/labels" }}
  target_class_mapping {{ key: "red" value: "red" }} target_class_mapping {{ key: "blue" value: "blue" }}
}}
"""
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Eleven pictures of a red or blue square."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    rng = np.random.default_rng(1)
    for number in range(11):
        image = rng.integers(90, 110, (128, 128, 3), dtype=np.uint8)
        name, color = (("red", (230, 30, 30)), ("blue", (30, 30, 230)))[number % 2]
        left, top = rng.integers(0, 88, 2)
        image[top : top + 40, left : left + 40] = color
        row = f"{name} 0 0 0 {left} {top} {left + 40} {top + 40} 0 0 0 0 0 0 0\n"
        Image.fromarray(image).save(folder / "images" / f"{number:03d}.png")
        (folder / "labels" / f"{number:03d}.txt").write_text(row)
    return folder


@pytest.fixture
def spec(data, tmp_path):
    def write(**values) -> Path:
        path = tmp_path / "spec.txt"
        path.write_text(SPEC.format(**{"batch": 4, "epochs": 10, "rate": 1e-2, "data": data, **values}))
        return path

    return write


def start(backend: str, *arguments, devices: int = 1) -> subprocess.Popen:
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if devices > 1:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    flags = ["--cpus", devices, "--gpus", devices] if devices > 1 else []
    command = [sys.executable, PROGRAM, "--tiny", *flags, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(list(map(str, command)), stdout=pipe, stderr=pipe, text=True, env=environment)


def report(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


def assert_same(found: dict, wanted: dict):
    assert found["seen"] == wanted["seen"]
    np.testing.assert_allclose(found["losses"], wanted["losses"], rtol=1e-5)
    assert found["validation_loss"] == pytest.approx(wanted["validation_loss"], rel=1e-5)
    assert found["per_class"] == pytest.approx(wanted["per_class"], abs=1e-3)


@pytest.mark.parametrize(
    ("shown", "gpus", "index", "left"),
    [
        (None, 1, None, "0"),
        (None, 3, None, "0,1,2"),
        (None, 1, [2], "2"),
        ("4,5,6", 2, None, "4,5"),
        ("4,5,6", 1, [2], "6"),
        ("4,5,6", 2, [0, 2], "4,6"),
        ("", 1, None, ""),  # no GPU, by will
        ("GPU-1f2e", 2, None, "GPU-1f2e"),
    ],
)
def test_other_gpus_are_hidden(monkeypatch, shown, gpus, index, left):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown or "")
    if shown is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    hide_other_gpus(gpus, index)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left


def test_two_replicas_of_tensorflow_train_as_one(spec):
    alone, together = (report(start("tensorflow", "steps", spec(), devices=devices)) for devices in (1, 2))
    assert len(alone["losses"]) == 20 and sorted([*alone["seen"][0], *alone["seen"][1]]) == list(range(11))
    assert np.mean(alone["losses"][-6:]) < 0.9 * np.mean(alone["losses"][:6])  # it learns
    assert "2 devices" in together["device"]
    assert_same(together, alone)


@needs_jax
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_of_jax_train_as_one(spec, processes):
    alone = report(start("jax", "steps", spec()))
    address = free_address()
    running = [start("jax", "steps", spec(), address, processes, number) for number in range(processes)]
    for process in running:
        assert_same(report(process), alone)


@needs_jax
def test_a_lost_process_ends_the_run_and_one_process_goes_on(spec, tmp_path):
    path, address, results = spec(epochs=400), free_address(), tmp_path / "results"
    running = []
    for number in range(2):
        cluster = ("--coordinator", address, "--num_processes", 2, "--process_id", number)
        running.append(start("jax", "train", "-e", path, "-r", results, *cluster))
    first, second = running
    for line in first.stdout:
        if line.startswith("epoch 3/"):
            break
    second.send_signal(signal.SIGKILL)
    second.wait()
    began = time.monotonic()
    out, err = first.communicate(timeout=200)
    assert first.returncode == 1, err
    assert "another of the 2 processes of the run was lost" in err and "--resume" in err
    assert "Traceback" not in err
    assert time.monotonic() - began < 150
    last = results / "weights" / "ssd_resnet10_last.keras"
    done = read_state(last)[0]["epoch"]
    assert done >= 3
    process = start("jax", "train", "-e", spec(epochs=done + 2), "-r", results, "--resume")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert f"resuming from {last}: after epoch {done}" in out
    assert read_state(last)[0]["epoch"] == done + 2


@needs_jax
def test_an_interrupted_process_stops_all_after_one_step(spec, tmp_path):
    path, address, results = spec(epochs=400), free_address(), tmp_path / "results"
    running = []
    for number in range(2):
        cluster = ("--coordinator", address, "--num_processes", 2, "--process_id", number)
        running.append(start("jax", "train", "-e", path, "-r", results, *cluster))
    for line in running[0].stdout:
        if line.startswith("epoch 2/"):
            break
    running[1].send_signal(signal.SIGTERM)
    for process in running:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 128 + signal.SIGTERM, err
    assert (results / "weights" / "ssd_resnet10_last.keras").exists()
