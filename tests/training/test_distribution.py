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

import keras
import numpy as np
import pytest
from squares import make_squares

from ssd.data.share import Share
from ssd.errors import InputError
from ssd.models.checkpoint import read_state
from ssd.training import distribution
from ssd.training.distribution import (
    Cluster,
    Device,
    _check_address,
    _without_stdout,
    check_alike,
    gpus_shown,
    in_step,
    lost,
    was_loss,
)

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
  regularizer {{ type: L2 weight: 1e-4 }} checkpoint_interval: 100 model_ema: true {more}
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


@pytest.fixture
def spec(tmp_path):
    def write(images: int = 11, **values) -> Path:
        folder, path = tmp_path / f"squares{images}", tmp_path / "spec.txt"
        if not folder.exists():
            folder.mkdir()
            make_squares(folder, images)
        defaults = {"batch": 4, "epochs": 10, "rate": 1e-2, "more": ""}
        path.write_text(SPEC.format(**{**defaults, "data": folder, **values}))
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


def pair(spec: Path, other: Path, results: Path, address: str, *flags) -> list[subprocess.Popen]:
    """Two processes that train together."""
    running = []
    for number, path in enumerate((spec, other)):
        cluster = ("--coordinator", address, "--num_processes", 2, "--process_id", number)
        running.append(start("jax", "train", "-e", path, "-r", results, *cluster, *flags))
    return running


def report(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


def assert_same(found: dict, wanted: dict, rtol: float = 1e-5):
    assert found["seen"] == wanted["seen"]
    np.testing.assert_allclose(found["losses"], wanted["losses"], rtol=rtol)
    assert found["validation_loss"] == pytest.approx(wanted["validation_loss"], rel=rtol)
    assert found["per_class"] == pytest.approx(wanted["per_class"], abs=1e-3)


def test_what_native_code_prints_is_not_among_our_lines(capfd):
    with _without_stdout():
        os.write(1, b"[Gloo] connected\n")
    os.write(1, b"ours\n")
    assert capfd.readouterr() == ("ours\n", "")


def test_a_process_without_stdout_joins_too():
    load = "import os; os.close(1)\nfrom ssd.training.distribution import _without_stdout"
    script = f"{load}\nwith _without_stdout(): pass"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_bad_input_of_one_process_is_all_others_end(monkeypatch):
    two, told, others = Device("cpu", "CPU", 2, Share(0, 2, 2)), [], iter((0, 1, 1, 0))
    monkeypatch.setattr(distribution, "agreed", lambda number: told.append(number) or max(number, next(others)))
    for _ in range(2):
        with pytest.raises(InputError, match="mine"), in_step(two):
            raise InputError("mine")
    with pytest.raises(InputError, match="another process of the run cannot use its input"), in_step(two):
        pass
    with in_step(two):
        pass
    assert told == [1, 1, 0, 0]


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
    assert gpus_shown(gpus, index) == left


def test_a_gpu_that_the_environment_does_not_show(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    with pytest.raises(InputError, match="--gpu_index 5: no such GPU among those of CUDA_VISIBLE_DEVICES=4,5,6"):
        gpus_shown(1, [5])


def test_an_address_that_cannot_be_is_refused_at_once():
    with pytest.raises(InputError, match=r"--coordinator no\.such\.host\.invalid:7000: unknown host"):
        _check_address(Cluster("no.such.host.invalid:7000", 2, 1))
    with socket.create_server(("", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match="cannot be had \\(Address already in use\\)"):
            _check_address(Cluster(address, 2, 0))
        _check_address(Cluster(address, 2, 1))  # it is process 0 that listens there
    _check_address(Cluster(free_address(), 2, 0))


@needs_jax
def test_ctrl_c_ends_the_wait_for_the_others(spec, tmp_path):
    cluster = ("--coordinator", free_address(), "--num_processes", 2, "--process_id", 0)
    process = start("jax", "train", "-e", spec(), "-r", tmp_path / "results", *cluster)
    assert "waiting for the other processes" in process.stdout.readline()
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == -signal.SIGINT


def test_what_is_no_lost_process():
    assert not was_loss(ValueError("a bad value"))
    assert not was_loss(InputError("Gloo is a place"))
    assert was_loss(RuntimeError("UNKNOWN: Gloo AllReduce failed: Connection closed by peer\nmore"))
    assert "--resume" in lost(saved=True).hint and "--resume" not in lost(saved=False).hint


@needs_jax
@pytest.mark.parametrize(
    ("coordinator", "shown", "wanted"),
    [("auto", "3", [0]), ("auto", "GPU-1f2e", [0]), ("auto", "0,1", None), ("auto", "", None), ("named", "3", None)],
)
def test_the_only_gpu_that_is_shown_is_the_process_own(monkeypatch, coordinator, shown, wanted):
    """However it numbers the processes of a machine, and so their GPUs, what started them."""
    import jax

    joined = []
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **flags: joined.append(flags["local_device_ids"]))
    monkeypatch.setattr(distribution, "agreed", lambda number: number)
    address = free_address() if coordinator == "named" else coordinator
    distribution.join(Cluster(address, 2, 0))
    assert joined == [wanted]


@needs_jax
def test_what_the_processes_differ_in_is_named(monkeypatch):
    import jax.experimental.multihost_utils as together

    everybodys = []

    def gather(own):
        everybodys.append(own)
        return np.stack([own, everybodys[0]])  # the other process came with what this one had at first

    monkeypatch.setattr(together, "process_allgather", gather)
    device = Device("cpu", "", 2, Share(0, 2, 2))
    check_alike({"spec": "a", "training images": ["x", "y"], "precision": "float32"}, device)
    check_alike({"spec": "a", "training images": ["x", "y"], "precision": "float32"}, device)
    with pytest.raises(InputError, match=r"differ in: training images\n"):
        check_alike({"spec": "a", "training images": ["x", "z"], "precision": "float32"}, device)
    with pytest.raises(InputError, match=r"differ in: spec, precision\n"):
        check_alike({"spec": "b", "training images": ["x", "y"], "precision": "mixed_bfloat16"}, device)


# 9 images: the last batch has a single one for two replicas.
@pytest.mark.parametrize(
    ("images", "more"), [(9, "enable_qat: true"), pytest.param(11, "", marks=pytest.mark.networks)]
)
def test_two_replicas_of_tensorflow_train_as_one(spec, images, more):
    path = spec(images=images, more=more)
    alone, together = (report(start("tensorflow", "steps", path, devices=devices)) for devices in (1, 2))
    assert len(alone["losses"]) == 20 and sorted([*alone["seen"][0], *alone["seen"][1]]) == list(range(images))
    assert more or np.mean(alone["losses"][-6:]) < 0.9 * np.mean(alone["losses"][:6])  # it learns
    assert "2 devices" in together["device"]
    # Each value is rounded to one of 255 levels, and one that lies between two may go to either: that is seen.
    assert_same(together, alone, rtol=1e-3 if "qat" in more else 1e-5)


@needs_jax
@pytest.mark.networks  # half a minute
def test_two_devices_of_one_jax_process_train_as_one(spec):
    alone, together = (report(start("jax", "steps", spec(), devices=devices)) for devices in (1, 2))
    assert "2 devices" in together["device"]
    assert_same(together, alone)


@needs_jax
@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.networks)])
def test_processes_of_jax_train_as_one(spec, processes):
    alone = report(start("jax", "steps", spec()))
    address = free_address()
    running = [start("jax", "steps", spec(), address, processes, number) for number in range(processes)]
    for process in running:
        assert_same(report(process), alone)


@pytest.mark.networks
def test_a_run_of_two_replicas_goes_on_with_one(spec, tmp_path):
    results = tmp_path / "results"
    path = spec(epochs=2, more="enable_qat: true")
    process = start("tensorflow", "train", "-e", path, "-r", results, devices=2)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    rate = next(line for line in out.splitlines() if line.startswith("epoch 2/2")).split("lr ")[1].split()[0]
    assert float(rate) == pytest.approx(2e-2)  # as many times the rate as there are devices
    process = start("tensorflow", "train", "-e", spec(epochs=3, more="enable_qat: true"), "-r", results, "--resume")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "epoch 3/3" in out
    assert read_state(results / "weights" / "ssd_resnet10_last.keras")[0]["epoch"] == 3


@needs_jax
def test_a_process_that_never_comes_is_not_waited_for_long():
    script = f"""
from ssd.training import distribution
distribution.PATIENCE = 2
distribution.join(distribution.Cluster({free_address()!r}, 2, 0))
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=100)
    assert found.returncode == 1 and "not all processes came within 2 s" in found.stderr
    assert "Traceback" not in found.stderr and "***" not in found.stderr


@needs_jax
@pytest.mark.networks
def test_processes_with_other_results_folders_end(spec, tmp_path):
    address = free_address()
    running = [
        start("jax", "train", "-e", spec(), "-r", tmp_path / f"results{number}", *("--coordinator", address),
              *("--num_processes", 2), *("--process_id", number)) for number in range(2)
    ]  # fmt: skip
    for process in running:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 2, err
        assert "the processes of the run differ in: results folder" in err
    assert not list(tmp_path.glob("results*"))


@needs_jax
@pytest.mark.networks
def test_a_fault_of_one_process_ends_all(spec, tmp_path):
    """A rate of its own for one of them: said before training; and a picture that one of them cannot read."""
    results, address = tmp_path / "results", free_address()
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "spec.txt"
    other.write_text(spec().read_text().replace("random_seed: 7", "random_seed: 8"))
    for number, process in enumerate(pair(spec(), other, results, address)):
        out, err = process.communicate(timeout=200)
        assert process.returncode == 2, err
        assert "Gloo" not in out  # what JAX's libraries say is not among our lines
        if number == 0:
            assert "the processes of the run differ in: spec" in err
    damaged = next((tmp_path / "squares11" / "images").iterdir())
    contents = damaged.read_bytes()
    damaged.write_bytes(contents[:200] + bytes(200) + contents[400:])
    began = time.monotonic()
    codes = [process.wait(timeout=200) for process in pair(spec(), spec(), results, free_address())]
    assert sorted(codes) == [1, 2] or codes == [2, 2]
    assert time.monotonic() - began < 150


@needs_jax
@pytest.mark.networks
def test_a_lost_process_ends_the_run_and_one_process_goes_on(spec, tmp_path):
    results = tmp_path / "results"
    first, second = pair(spec(epochs=400), spec(epochs=400), results, free_address())
    for line in first.stdout:
        if line.startswith("epoch 3/"):
            break
    second.send_signal(signal.SIGKILL)
    second.wait()
    began = time.monotonic()
    out, err = first.communicate(timeout=200)
    assert first.returncode == 1, err
    assert "another process of the run was lost" in err and "--resume" in err
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
    # And with two again, which must fill in the weights in the same order, whatever order their sets have.
    path = spec(epochs=done + 4)
    for process in pair(path, path, results, free_address(), "--resume"):
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
    assert read_state(last)[0]["epoch"] == done + 4


@needs_jax
@pytest.mark.networks
def test_an_interrupted_process_stops_all(spec, tmp_path):
    results = tmp_path / "results"
    running = pair(spec(epochs=400), spec(epochs=400), results, free_address())
    for line in running[0].stdout:
        if line.startswith("epoch 2/"):
            break
    running[1].send_signal(signal.SIGTERM)
    for number, process in enumerate(running):
        _, err = process.communicate(timeout=200)
        assert process.returncode == 128 + signal.SIGTERM, err
        assert ("interrupted: saving after at most" in err) == (number == 1)  # an answer where the signal came
    assert (results / "weights" / "ssd_resnet10_last.keras").exists()


@needs_jax
@pytest.mark.networks
def test_a_loss_that_is_not_finite_ends_all_in_the_same_words(spec, tmp_path):
    path, results = spec(rate=1e30, epochs=40), tmp_path / "results"
    found = []
    for process in pair(path, path, results, free_address()):
        _, err = process.communicate(timeout=200)
        assert process.returncode == 1, err
        found.append(next(line for line in err.splitlines() if "not finite" in line))
    assert found[0] == found[1] and "step" in found[0]
