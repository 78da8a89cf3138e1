"""`ssd train` as a user runs it: flags, exit codes, kill -9 and Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from squares import make_squares

from ssd.cli import main
from ssd.models.checkpoint import load_model, save_model
from ssd.spec import load_experiment

SPEC = """
random_seed: 7
ssd_config {{ arch: "resnet" nlayers: 10 scales: "[0.15, 0.35, 0.5, 0.6, 0.7, 0.8, 1.0]" aspect_ratios_global: "[1.0]"
  two_boxes_for_ar1: true variances: "[0.1, 0.1, 0.2, 0.2]" }}
training_config {{
  batch_size_per_gpu: 4 num_epochs: {epochs}
  learning_rate {{ soft_start_annealing_schedule {{
    min_learning_rate: 1e-4 max_learning_rate: 0.01 soft_start: 0.1 annealing: 0.6 }} }}
  regularizer {{ type: L2 weight: 1e-5 }} checkpoint_interval: 100 model_ema: {ema}
}}
eval_config {{ validation_period_during_training: 100 average_precision_mode: INTEGRATE batch_size: 4 }}
nms_config {{ confidence_threshold: 0.05 clustering_iou_threshold: 0.5 top_k: 20 }}
augmentation_config {{ output_width: 128 output_height: 128 output_channel: 3
  random_crop_min_scale: 1 random_crop_max_scale: 1 random_crop_min_ar: 1 random_crop_max_ar: 1
  zoom_out_min_scale: 1 zoom_out_max_scale: 1 brightness: 10 contrast: 0 saturation: 0 hue: 0 }}
dataset_config {{
  data_sources {{ image_directory_path: "{data}/images" label_directory_path: "{data}/labels" }}
  validation_data_sources {{ image_directory_path: "{data}/images" label_directory_path: "{data}/labels" }}
  target_class_mapping {{ key: "red" value: "red" }} target_class_mapping {{ key: "blue" value: "blue" }}
}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Eight pictures with a red or a blue square each: two batches."""
    return make_squares(tmp_path_factory.mktemp("squares"), 8)


@pytest.fixture(autouse=True)
def all_gpus_shown(monkeypatch):
    """A run hides the GPUs that it leaves to others from its process, which here goes on."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


@pytest.fixture
def spec(data, tmp_path):
    def write(epochs: int, ema: bool = False) -> Path:
        path = tmp_path / "spec.txt"
        path.write_text(SPEC.format(epochs=epochs, ema=str(ema).lower(), data=data))
        return path

    return write


def start(*arguments) -> subprocess.Popen:
    command = [sys.executable, "-m", "ssd", "train", *map(str, arguments)]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ssd(*arguments) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def stop_after_line(process: subprocess.Popen, begin: str, delay: float, number: int) -> tuple[int, str]:
    """Signals the process `delay` seconds after it printed a line that begins so; its exit code and stderr."""
    for line in process.stdout:
        if line.startswith(begin):
            time.sleep(delay)
            process.send_signal(number)
            break
    _, err = process.communicate(timeout=600)
    return process.returncode, err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpus", "0"], "--gpus is 0; at least 1 is needed"),
        (["--gpus", "2"], "--gpus 2: this machine has no GPU"),
        (["--gpu_index", "0", "1"], "--gpu_index 0 1: no such GPU on this machine"),
        (["--gpu_index", "1", "1"], "--gpu_index 1 1: the same GPU twice"),
        (["--gpus", "3", "--gpu_index", "0", "1"], "--gpus 3, but --gpu_index names 2"),
        (["--process_id", "1"], "--process_id needs --coordinator HOST:PORT"),
        (["--coordinator", "localhost"], "--coordinator localhost: HOST:PORT is needed"),
        (["--coordinator", "localhost:1234"], "needs --num_processes and --process_id too"),
        (
            ["--coordinator", "localhost:1234", "--num_processes", "2", "--process_id", "2"],
            "--process_id 2 of --num_processes 2",
        ),
        (["--coordinator", "auto", "--num_processes", "2"], "--coordinator auto finds --num_processes by itself"),
        (["--coordinator", "auto", "--gpus", "2"], "--coordinator auto gives each process one GPU"),
        (
            ["--coordinator", "localhost:1234", "--num_processes", "2", "--process_id", "0"],
            "several processes train together with the JAX backend only",
        ),
        (["--gpu_index", "-1"], "--gpu_index -1: indices count from 0"),
        (
            ["--cache", "memory", "--coordinator", "localhost:1234"],
            "--cache memory: each process would hold all",
        ),
        (["--dry_run", "--profile", "3"], "--dry_run trains one step as the spec says, without --profile"),
        (["--dry_run", "--auto_batch"], "--dry_run trains one step as the spec says, without --auto_batch"),
        (["--auto_batch", "--resume"], "--auto_batch: a run that goes on keeps its batch size"),
        (["--profile", "-1"], "--profile is -1"),
        (["--initial_epoch", "0"], "--initial_epoch is 0; epochs count from 1"),
        (["--resume", "-m", "x.keras"], "-m/--resume_model_weights names another"),
        (["--resume", "--initial_epoch", "3"], "--initial_epoch names another"),
        (["--arch", "dssd"], "--arch dssd: the spec has ssd_config"),
    ],
)
def test_bad_flags_end_with_one_line_and_write_nothing(flags, message, spec, tmp_path, capsys):
    results = tmp_path / "results"
    assert main(["train", "-e", str(spec(1)), "-r", str(results), *flags]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not results.exists()


def test_several_bad_flags_are_told_together(spec, tmp_path, capsys):
    assert main(["train", "-e", str(spec(1)), "-r", str(tmp_path / "r"), "--gpus", "0", "--initial_epoch", "0"]) == 2
    err = capsys.readouterr().err
    assert [word in err for word in ("--gpus is 0", "--initial_epoch is 0")] == [True] * 2


def test_a_gpu_that_is_not_there_and_a_convolution_that_is_not(spec, tmp_path, capsys):
    path, results = spec(1), tmp_path / "r"
    assert main(["train", "-e", str(path), "-r", str(results), "--gpu_index", "63"]) == 2
    assert "--gpu_index 63: no such GPU on this machine" in capsys.readouterr().err
    qat = 'enable_qat: true qat_config { keep_float: "conv_9" } checkpoint_interval'
    path.write_text(path.read_text().replace("checkpoint_interval", qat))
    assert main(["train", "-e", str(path), "-r", str(results)]) == 2
    assert 'training_config.qat_config.keep_float: "conv_9" fits none of the' in capsys.readouterr().err
    assert not results.exists()


def test_killed_and_interrupted_runs_go_on_to_the_same_bits(spec, thin_detector, tmp_path):
    path, weights = spec(8, ema=True), tmp_path / "thin.keras"
    experiment = load_experiment(path, "train")
    save_model(weights, thin_detector(experiment), experiment.text)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    code, out, err = ssd("-e", path, "-r", unbroken, "--deterministic", "-m", weights)
    assert code == 0, err
    assert out.splitlines()[-1] == f"results: {unbroken}"
    flags = ("-e", path, "-r", broken, "--deterministic")
    code, _ = stop_after_line(start(*flags, "-m", weights), "epoch 2/", 0.05, signal.SIGKILL)
    assert code == -signal.SIGKILL
    code, err = stop_after_line(start(*flags, "--resume"), "epoch 5/", 0.03, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "go on with --resume" in err
    code, out, err = ssd(*flags, "--resume")
    assert code == 0, err
    assert "resuming from" in out

    name = "weights/ssd_resnet10_last.keras"
    one, other = (load_model(folder / name, verb=None) for folder in (unbroken, broken))
    assert [key for key in one.arrays if not np.array_equal(one.arrays[key], other.arrays[key])] == []
    for wanted, found in zip(one.model.weights, other.model.weights, strict=True):
        assert np.array_equal(wanted.numpy(), found.numpy()), wanted.path
    epochs = [line.split(",")[0] for line in (broken / "ssd_training_log_resnet10.csv").read_text().splitlines()]
    assert epochs == ["epoch", *map(str, range(1, 9))]
    assert not list(broken.glob("weights/.tmp-*"))
