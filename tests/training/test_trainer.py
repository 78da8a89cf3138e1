"""Whole runs on real files with a network that trains in seconds: what is saved, resumed, refused and reported."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from squares import make_squares
from tiny_network import replace

from ssd.errors import InputError, ModelError, RunError
from ssd.models.checkpoint import load_model, read_state, save_model
from ssd.spec import load_experiment
from ssd.training import run as run_module
from ssd.training import trainer
from ssd.training.checkpoints import Checkpoints
from ssd.training.interrupt import Stopped
from ssd.training.trainer import Request, train

SPEC = """
random_seed: {seed}
ssd_config {{ arch: "resnet" nlayers: 10 scales: "[0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]" aspect_ratios_global: "[1.0]"
  variances: "[0.1, 0.1, 0.2, 0.2]" }}
training_config {{
  batch_size_per_gpu: {batch} num_epochs: {epochs}
  learning_rate {{ soft_start_annealing_schedule {{
    min_learning_rate: 1e-4 max_learning_rate: {rate} soft_start: 0.1 annealing: 0.6 }} }}
  regularizer {{ type: L2 weight: 1e-4 }} checkpoint_interval: 2 {extra}
}}
eval_config {{ validation_period_during_training: {period} average_precision_mode: INTEGRATE batch_size: 4 }}
nms_config {{ confidence_threshold: 0.05 clustering_iou_threshold: 0.5 top_k: 20 }}
augmentation_config {{ output_width: 128 output_height: 128 output_channel: 3
  random_crop_min_scale: 1 random_crop_max_scale: 1 random_crop_min_ar: 1 random_crop_max_ar: 1
  zoom_out_min_scale: 1 zoom_out_max_scale: 1 brightness: 20 contrast: 0 saturation: 0 hue: 0 }}
dataset_config {{
  data_sources {{ image_directory_path: "{data}/images" label_directory_path: "{data}/labels" }}
  {validation}
  target_class_mapping {{ key: "red" value: "red" }} target_class_mapping {{ key: "blue" value: "{blue}" }}
}}
"""
VALIDATION = 'validation_data_sources {{ image_directory_path: "{data}/images" label_directory_path: "{data}/labels" }}'
PLAIN_COLUMNS = {"seconds", "images_per_second", "data_wait"}  # differ between equal runs


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Eight pictures of a red or blue square."""
    return make_squares(tmp_path_factory.mktemp("squares"), 8)


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    """In place of a ResNet."""
    replace(monkeypatch.setattr)


@pytest.fixture
def spec(data, tmp_path):
    def make(*, validated=True, **values):
        defaults = {"seed": 7, "batch": 4, "epochs": 4, "rate": 0.02, "extra": "", "period": 2, "blue": "blue"}
        validation = VALIDATION.format(data=data) if validated else ""
        path = tmp_path / "spec.txt"
        path.write_text(SPEC.format(**{**defaults, **values}, data=data, validation=validation))
        return load_experiment(path, "train")

    return make


def interrupt_at(monkeypatch, batch: int, number=signal.SIGINT):
    """Sends this process a signal while the `batch`-th step of the run is under way."""
    step, done = run_module.TrainingModel.train_on_batch, []

    def train_on_batch(self, *args, **kwargs):
        done.append(1)
        if len(done) == batch:
            os.kill(os.getpid(), number)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(run_module.TrainingModel, "train_on_batch", train_on_batch)


def contents(path: Path) -> dict[str, np.ndarray]:
    artifact = load_model(path, verb=None)
    return {**artifact.arrays, **{str(i): w for i, w in enumerate(artifact.model.get_weights())}}


def assert_same_run(one: Path, other: Path):
    """Every number of the two last checkpoints, to the bit, and what they report."""
    name = "weights/ssd_resnet10_last.keras"
    found, wanted = contents(one / name), contents(other / name)
    assert found.keys() == wanted.keys()
    assert [key for key in found if not np.array_equal(found[key], wanted[key])] == []
    for key in ("epoch", "position", "best_map", "best_epoch", "stopping"):
        assert read_state(one / name)[0][key] == read_state(other / name)[0][key]
    assert plain_csv(one) == plain_csv(other)


def plain_csv(folder: Path) -> list[dict]:
    with (folder / "ssd_training_log_resnet10.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in PLAIN_COLUMNS} for row in csv.DictReader(file)]


def status_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "status.json").open()]


def test_a_run_leaves_checkpoints_log_curves_and_status(spec, tmp_path):
    folder = train(
        spec(extra="visualizer { enabled: true num_images: 2 weight_histograms: true }"), tmp_path / "r", Request()
    )
    weights = {path.name for path in (folder / "weights").iterdir()}
    assert weights == {f"ssd_resnet10_{name}.keras" for name in ("epoch_002", "epoch_004", "last", "best")}
    rows = plain_csv(folder)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["mAP"] == "nan" for row in rows] == [True, False, True, False]
    assert float(rows[-1]["lr"]) == pytest.approx(1e-4, rel=1e-3)
    losses = [float(row["loss"]) for row in rows]
    assert losses[-1] < losses[0]
    parts = ("classification_loss", "localisation_loss", "regularisation_loss")
    assert losses[0] == pytest.approx(sum(float(rows[0][part]) for part in parts), rel=1e-4)
    lines = status_of(folder)
    assert (lines[0]["status"], lines[0]["message"]) == ("STARTED", "Starting Training Loop.")
    assert (lines[-1]["status"], lines[-1]["message"]) == ("SUCCESS", "Training finished successfully.")
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3, 4]
    assert (folder / "learning_curve.png").stat().st_size > 10_000
    state, _ = read_state(folder / "weights/ssd_resnet10_best.keras")
    assert state["best_map"] == max(row["mAP"] for row in state["history"] if row.get("mAP") is not None)
    assert tags(folder / "events") >= {
        "loss",
        "lr",
        "mAP",
        "validation_loss",
        "AP_red",
        "batch_imgs/1",
        "weights/conv1/kernel",
    }


def tags(folder: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (path,) = folder.iterdir()
    return {value.tag for event in EventFileLoader(str(path)).Load() for value in event.summary.value}


def test_an_interrupted_run_goes_on_to_the_same_bits(spec, tmp_path, monkeypatch):
    experiment = spec(batch=3, extra="model_ema: true")  # batches of 3, 3 and 2
    whole = train(experiment, tmp_path / "whole", Request(deterministic=True))
    # In the middle of an epoch, and before its last batch, the short one.
    for step, number in ((4, signal.SIGINT), (8, signal.SIGTERM)):
        cut = tmp_path / f"cut{step}"
        with monkeypatch.context() as patched:
            interrupt_at(patched, step, number)
            with pytest.raises(Stopped):
                train(experiment, cut, Request(deterministic=True))
        assert read_state(cut / "weights/ssd_resnet10_last.keras")[0]["position"] == (step - 1) % 3 + 1
        assert status_of(cut)[-1]["message"] == "Training was interrupted"
        train(experiment, cut, Request(resume=True, deterministic=True))
        assert_same_run(whole, cut)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(spec, tmp_path, capfd):
    from ssd import console

    console.set_up()
    experiment = spec()
    whole = train(experiment, tmp_path / "whole", Request(deterministic=True))
    cut = shutil.copytree(whole, tmp_path / "cut")
    for name in ("last", "epoch_004", "best"):
        path = cut / f"weights/ssd_resnet10_{name}.keras"
        path.write_bytes(path.read_bytes()[:5000])
    train(experiment, cut, Request(resume=True, deterministic=True))
    assert "does not load" in capfd.readouterr().err
    assert_same_run(whole, cut)


def test_a_best_checkpoint_that_a_kill_prevented_is_made_up_for(spec, tmp_path):
    experiment = spec(epochs=2)
    folder = train(experiment, tmp_path / "r", Request())
    checkpoints = Checkpoints.of(folder, experiment.network)
    path, _, progress = checkpoints.newest()
    found = progress.best_map
    for damaged in (False, True):
        checkpoints.best.unlink()  # it may be one file with the last
        if damaged:
            checkpoints.best.write_bytes(b"PK")
        checkpoints.settle_best(path, progress)
        assert read_state(checkpoints.best)[0]["epoch"] == progress.best_epoch == 2
        assert progress.best_map == found
    # Further on than the best, whose weights are nowhere: it is sought anew.
    checkpoints.best.unlink()
    progress.position = 1
    checkpoints.settle_best(path, progress)
    assert not checkpoints.best.exists()
    assert (progress.best_map, progress.best_epoch) == (None, None)


def test_a_run_refused_for_its_cache_leaves_no_folder(spec, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--cache"):
        train(spec(), tmp_path / "r", Request(cache=str(tmp_path / "file")))
    assert not (tmp_path / "r").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="--cache"):
        train(spec(), tmp_path / "mine", Request(cache=str(tmp_path / "file")))
    assert (tmp_path / "mine").exists()


def test_resume_has_rules(spec, tmp_path, capfd):
    from ssd import console

    console.set_up()
    folder = tmp_path / "r"
    with pytest.raises(InputError, match="no checkpoint"):
        train(spec(), folder, Request(resume=True))
    assert not folder.exists()
    train(spec(epochs=2), folder, Request())
    last = folder / "weights/ssd_resnet10_last.keras"
    with pytest.raises(InputError, match="checkpoints of another run"):
        train(spec(epochs=2), folder, Request())
    before = last.read_bytes()
    train(spec(epochs=2), folder, Request(resume=True))
    assert "nothing to resume: all 2 epochs are trained" in capfd.readouterr().out
    assert last.read_bytes() == before
    with pytest.raises(ModelError, match=r"dataset_config\.classes"):
        train(spec(epochs=3, blue="azure"), folder, Request(resume=True))
    with pytest.raises(ModelError, match=r"training_config\.optimizer\.kind: sgd -> adam"):
        train(spec(epochs=3, extra="optimizer { adam { } }"), folder, Request(resume=True))
    # More epochs, another rate and other batches are what one may want to change.
    train(spec(epochs=3, rate=0.01, batch=8), folder, Request(resume=True))
    said = capfd.readouterr().err
    assert "training_config.num_epochs: 2 -> 3" in said
    assert "training_config.learning_rate.max_learning_rate: 0.02 -> 0.01" in said
    assert [row["epoch"] for row in plain_csv(folder)] == ["1", "2", "3"]
    state, arrays = read_state(last)
    assert state["epoch"] == 3
    # The schedule goes on at two thirds: there is one batch an epoch now.
    assert int(arrays["optimizer.iteration"]) == int(arrays["counter"]) == 3


def test_the_original_way_of_resuming_and_initial_weights(spec, tmp_path):
    first = train(spec(), tmp_path / "first", Request(deterministic=True))
    second = first / "weights/ssd_resnet10_epoch_002.keras"
    with pytest.raises(InputError, match="is the state after epoch 2") as caught:
        train(spec(), tmp_path / "x", Request(weights=str(second), initial_epoch=5))
    assert "--initial_epoch 3" in caught.value.hint
    with pytest.raises(InputError, match="holds later epochs"):
        train(spec(), first, Request(weights=str(second), initial_epoch=3))
    with pytest.raises(InputError, match="needs the checkpoint"):
        train(spec(), tmp_path / "x", Request(initial_epoch=3))
    with pytest.raises(ModelError, match="no such model file"):
        train(spec(), tmp_path / "x", Request(weights=str(tmp_path / "none.keras")))
    assert not (tmp_path / "x").exists()
    resumed = train(spec(), tmp_path / "resumed", Request(weights=str(second), initial_epoch=3, deterministic=True))
    assert_same_run(first, resumed)
    named = train(spec(extra=f'resume_model_path: "{second}"'), tmp_path / "named", Request(deterministic=True))
    assert plain_csv(named) == plain_csv(first)
    fresh = train(spec(epochs=1, extra=f'pretrain_model_path: "{second}"'), tmp_path / "fresh", Request())
    assert [row["epoch"] for row in plain_csv(fresh)] == ["1"]
    assert float(plain_csv(fresh)[0]["loss"]) < float(plain_csv(first)[0]["loss"])


QAT = "enable_qat: true qat_config {{ settle_at: {} }}"


def ranges(path: Path) -> dict[str, float]:
    layers = load_model(path, verb=None).model.layers
    return {layer.name: float(layer.get_weights()[0]) for layer in layers if layer.name.endswith("_qdq")}


@pytest.mark.parametrize(("ema", "step"), [("false", 3), ("true", 6)])  # before and after everything settled
def test_an_interrupted_quantization_aware_run_goes_on_to_the_same_bits(ema, step, spec, tmp_path, monkeypatch):
    experiment = spec(extra=QAT.format(0.5) + f" model_ema: {ema}")
    whole = train(experiment, tmp_path / "whole", Request(deterministic=True))
    found = ranges(whole / "weights/ssd_resnet10_last.keras")
    assert set(found) == {"pool_qdq", "relu1_qdq"}
    assert min(found.values()) > 0
    cut = tmp_path / "cut"
    with monkeypatch.context() as patched:
        interrupt_at(patched, step)
        with pytest.raises(Stopped):
            train(experiment, cut, Request(deterministic=True))
    train(experiment, cut, Request(resume=True, deterministic=True))
    assert_same_run(whole, cut)


def statistics(path: Path) -> list[np.ndarray]:
    model = load_model(path, verb=None).model
    return [*model.get_layer("bn1").get_weights()[2:], *ranges(path).values()]


def test_ranges_and_batch_statistics_settle_and_weights_train_on(spec, tmp_path):
    folder = train(spec(extra=QAT.format(0.5)), tmp_path / "r", Request())
    second, last = (folder / f"weights/ssd_resnet10_epoch_00{n}.keras" for n in (2, 4))
    for before, after in zip(statistics(second), statistics(last), strict=True):
        np.testing.assert_array_equal(before, after)
    kernels = [load_model(path, verb=None).model.get_layer("conv1").get_weights()[0] for path in (second, last)]
    assert not np.array_equal(*kernels)
    folder = train(spec(extra=QAT.format(1)), tmp_path / "s", Request())
    second, last = (folder / f"weights/ssd_resnet10_epoch_00{n}.keras" for n in (2, 4))
    assert not any(np.array_equal(*pair) for pair in zip(statistics(second), statistics(last), strict=True))


def test_a_float_run_goes_on_quantization_aware_and_back(spec, tmp_path, capfd):
    from ssd import console

    console.set_up()
    folder = train(spec(epochs=2), tmp_path / "r", Request())
    last = folder / "weights/ssd_resnet10_last.keras"
    assert not ranges(last)
    before = contents(last)
    # Float epochs are past this share of the epochs, and none of them has seen a range.
    train(spec(epochs=3, extra=QAT.format(0.5) + " model_ema: true", period=1), folder, Request(resume=True))
    said = capfd.readouterr()
    assert "the float checkpoint goes on quantization-aware" in said.out
    assert "training_config.enable_qat: false -> true" in said.err
    assert len(ranges(last)) == 2
    assert min(ranges(last).values()) > 0.1
    assert read_state(last)[0]["float_epochs"] == 2
    assert read_state(last)[0]["best_epoch"] == 3  # the float epochs no longer count
    after = contents(last)
    assert int(after["counter"]) == int(before["counter"]) + 2
    assert after["optimizer.conv1_kernel_momentum"].any()
    train(spec(epochs=4), folder, Request(resume=True))
    assert "goes on in float: its ranges are dropped" in capfd.readouterr().out
    assert not ranges(last)
    assert [row["epoch"] for row in plain_csv(folder)] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("float_epochs", "epoch", "settled"), [(0, 6, False), (0, 7, True), (8, 8, False), (8, 9, False), (8, 10, True)]
)
def test_settling_counts_quantization_aware_epochs(float_epochs, epoch, settled, spec):
    from ssd.training.state import Progress

    training = spec(epochs=10, extra=QAT.format(0.7)).training
    assert trainer.settles(training, Progress(epoch=epoch, float_epochs=float_epochs)) == settled


def test_a_run_that_stopped_early_goes_on_as_another_kind(spec, tmp_path):
    rule = ' early_stopping { monitor: "loss" min_delta: 1000 patience: 1 }'
    folder = train(spec(epochs=4, extra=rule), tmp_path / "r", Request())
    assert len(plain_csv(folder)) == 2
    train(spec(epochs=4, extra=rule + QAT.format(0.7)), folder, Request(resume=True))
    assert len(plain_csv(folder)) == 4  # its first epoch is the first that is looked at


def test_an_encrypted_file_is_opened_for_the_flag_and_the_spec(spec, tmp_path, monkeypatch, capfd):
    from ssd import console
    from ssd.encryption import encrypt_file

    console.set_up()
    monkeypatch.setattr("ssd.encryption.SCRYPT", (4, 8, 1))
    plain, sealed = tmp_path / "plain.keras", tmp_path / "sealed.tlt"
    network = run_module.build_detector(None, (128, 128, 3), 2, None)
    record = {"threshold": 0.5}
    save_model(plain, network, spec().text, {"pruning": [record]})
    encrypt_file(plain, sealed, "key")
    named = spec(epochs=1, extra=f'pruned_model_path: "{sealed}"')
    with pytest.raises(ModelError, match="encrypted, and no key was given"):
        train(named, tmp_path / "r", Request())
    folder = train(named, tmp_path / "r", Request(key="key"))
    assert json.loads((folder / "initial_weights.json").read_text())["file"] == str(sealed)
    out = capfd.readouterr().out
    assert f"tensors from {sealed}" in out
    assert "a tenth of the file's is left" in out
    assert read_state(folder / "weights/ssd_resnet10_last.keras")[0]["pruning"] == [record]
    encrypt_file(__file__, sealed, "key")  # no model inside
    with pytest.raises(ModelError) as caught:
        train(spec(), tmp_path / "s", Request(weights=str(sealed), key="key"))
    assert caught.value.where == str(sealed)


@pytest.mark.parametrize("monitor", ["loss", "validation_loss"])
def test_early_stopping_validates_and_saves_the_last_epoch(monitor, spec, tmp_path, capfd):
    from ssd import console

    console.set_up()
    rule = f'early_stopping {{ monitor: "{monitor}" min_delta: 1000 patience: 1 }}'
    experiment = spec(epochs=9, extra=rule, period=2)
    folder = train(experiment, tmp_path / "r", Request())
    end = 2 if monitor == "loss" else 4
    assert plain_csv(folder)[-1]["epoch"] == str(end)
    assert plain_csv(folder)[-1]["mAP"] != "nan"
    assert (folder / f"weights/ssd_resnet10_epoch_{end:03d}.keras").exists()
    assert f"early stopping: {monitor} has not fallen by 1000 since epoch" in capfd.readouterr().out
    train(experiment, folder, Request(resume=True))
    assert f"early stopping ended the run after epoch {end}" in capfd.readouterr().out


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_state(spec, tmp_path, monkeypatch):
    step, done = run_module.TrainingModel.train_on_batch, []

    def train_on_batch(self, images, truth):
        done.append(1)
        if len(done) == 4:  # the second batch of the second epoch
            self.detector.get_layer("ssd_conf_0").bias.assign([np.nan] * 3)
        return step(self, images, truth)

    monkeypatch.setattr(run_module.TrainingModel, "train_on_batch", train_on_batch)
    with pytest.raises(RunError, match="not finite at step 3, batch 2 of epoch 2") as caught:
        train(spec(), tmp_path / "r", Request())
    text = str(caught.value)
    assert "learning rate" in text
    names = text.split("images of the batch: ")[1].splitlines()[0].split(", ")
    from ssd.data.pipeline import training_loader

    loader = training_loader(spec(), batch_size=4)
    batches = [truth["index"] for _, truth in loader.epoch(1)]
    assert names == loader.names(np.asarray(batches[1]))
    assert "images of the batch before" in text
    state, _ = read_state(tmp_path / "r/weights/ssd_resnet10_last.keras")
    assert state["epoch"] == 1
    assert all(np.isfinite(value).all() for value in contents(tmp_path / "r/weights/ssd_resnet10_last.keras").values())
    assert status_of(tmp_path / "r")[-1]["status"] == "FAILURE"


def test_weights_that_the_last_step_broke_are_not_saved(spec, tmp_path, monkeypatch):
    step, done = run_module.TrainingModel.train_on_batch, []

    def train_on_batch(self, images, truth):
        step(self, images, truth)
        done.append(1)
        if len(done) == 2:
            self.detector.get_layer("conv1").kernel.assign(np.full((1, 1, 3, 8), np.inf))

    monkeypatch.setattr(run_module.TrainingModel, "train_on_batch", train_on_batch)
    with pytest.raises(RunError, match="weights are not finite after step 1, batch 2 of epoch 1") as caught:
        train(spec(), tmp_path / "r", Request())
    assert "nothing is saved" in str(caught.value)
    assert not list((tmp_path / "r").glob("weights/*.keras"))


@pytest.mark.parametrize(
    ("saves", "said", "cure"), [(0, "there is none yet", "start again"), (1, "last whole one is kept", "--resume")]
)
def test_a_full_disk_names_the_checkpoint_that_there_is(saves, said, cure, spec, tmp_path, monkeypatch):
    from ssd.training import checkpoints

    save, done = checkpoints.save_model, []

    def until_full(*args):
        if len(done) == saves:
            raise OSError(28, "No space left on device")
        done.append(1)
        return save(*args)

    monkeypatch.setattr(checkpoints, "save_model", until_full)
    with pytest.raises(RunError, match=f"No space left on device; .*{said}") as caught:
        train(spec(epochs=3), tmp_path / "r", Request())
    assert cure in caught.value.hint
    assert status_of(tmp_path / "r")[-1]["status"] == "FAILURE"


def test_a_shortage_of_memory_names_the_cure(spec, tmp_path, monkeypatch):
    def train_on_batch(self, *args):
        raise RuntimeError("RESOURCE_EXHAUSTED: OOM when allocating tensor")

    monkeypatch.setattr(run_module.TrainingModel, "train_on_batch", train_on_batch)
    with pytest.raises(RunError, match="out of memory with batches of 4 images of 128x128") as caught:
        train(spec(), tmp_path / "r", Request())
    assert "batch_size_per_gpu (to 2)" in caught.value.hint
    assert status_of(tmp_path / "r")[-1]["status"] == "FAILURE"


def test_without_validation_data_there_is_no_best(spec, tmp_path):
    folder = train(spec(validated=False, epochs=1), tmp_path / "r", Request())
    assert {path.name for path in (folder / "weights").iterdir()} == {
        "ssd_resnet10_epoch_001.keras",
        "ssd_resnet10_last.keras",
    }
    assert "mAP" not in plain_csv(folder)[0]
