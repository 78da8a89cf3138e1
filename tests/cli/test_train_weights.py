"""`ssd train -m FILE`: initial weights through the command line, and TAO's detectors wherever a model of ours goes."""

import json

import h5py
import numpy as np
import pytest

from ssd.cli import main
from ssd.models.checkpoint import load_model, read_state


@pytest.fixture(scope="module")
def tao_model(tao_files, tmp_path_factory):
    """A detector for the three classes of `spec_file`, four boxes a cell."""
    layers = [
        (name, kind, [array * 0.01 for array in arrays] if name.startswith("ssd_conf") else arrays)
        for name, kind, arrays in tao_files.resnet10(heads=(3, 4), keep=0.25)
    ]
    return tao_files.write(tmp_path_factory.mktemp("tao") / "ssd_resnet10_epoch_001.hdf5", layers)


@pytest.fixture
def spec(spec_file, tmp_path):
    """The spec of the small data set, with changes; four pictures in a batch."""

    def write(*changes, without_validation=True):
        text = spec_file.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        if without_validation:
            text = "\n".join(line for line in text.splitlines() if "validation_data_sources" not in line)
        (tmp_path / "spec.txt").write_text(text)
        return str(tmp_path / "spec.txt")

    return write


def test_a_tao_detector_is_evaluated_and_used(tao_model, spec_file, kitti_folder, tmp_path, capsys):
    flags = ["-m", str(tao_model), "-e", str(spec_file), "-r", str(tmp_path / "e")]
    assert main(["evaluate", *flags, "--gallery", "0"]) == 0
    assert json.loads((tmp_path / "e/metrics.json").read_text())["images"] == 10
    image = str(kitti_folder / "images/000.jpg")
    flags = ["-m", str(tao_model), "-e", str(spec_file), "-i", image, "-r", str(tmp_path / "i"), "-t", "0.05"]
    assert main(["inference", *flags]) == 0
    assert (tmp_path / "i").is_dir()
    capsys.readouterr()
    assert main(["evaluate", "-m", str(tao_model), "-r", str(tmp_path / "n")]) == 2
    assert "an HDF5 model has no spec inside" in capsys.readouterr().err
    assert not (tmp_path / "n").exists()


def test_a_pruned_tao_detector_is_trained_frozen_and_resumed(tao_model, spec, tmp_path, capsys):
    """One run for many questions: filter counts, freezing after loading, the average's start, the report, --resume."""
    changes = (
        ("num_epochs: 1", "num_epochs: 1 model_ema: true"),
        ("max_learning_rate: 1e-2", "max_learning_rate: 2e-4"),  # the weights are random
        ('arch: "resnet"', 'freeze_blocks: 0 freeze_bn: true arch: "resnet"'),
    )
    path, results = spec(*changes), tmp_path / "r"
    assert main(["train", "-e", path, "-r", str(results), "-m", str(tao_model)]) == 0
    out = capsys.readouterr().out
    assert f"{tao_model} is a pruned resnet10: its filter counts are taken" in out
    assert "initial weights: 117 of 117 tensors" in out
    assert "    heads: 24 of 24" in out
    told = json.loads((results / "initial_weights.json").read_text())
    assert told["file"] == str(tao_model)
    assert told["loaded"] == told["total"] == 117
    last = results / "weights/ssd_resnet10_last.keras"
    model = load_model(last, verb=None).model
    with h5py.File(tao_model) as file:
        kernels = {n: file[f"model_weights/{n}/{n}_1/kernel:0"][()] for n in ("conv1", "block_4a_conv_2")}
        mean = file["model_weights/block_3a_bn_1/block_3a_bn_1_1/moving_mean:0"][()]
    assert kernels["conv1"].shape == (7, 7, 3, 16)
    np.testing.assert_array_equal(np.asarray(model.get_layer("conv1").kernel), kernels["conv1"])
    np.testing.assert_array_equal(np.asarray(model.get_layer("block_3a_bn_1").moving_mean), mean)
    trained = np.asarray(model.get_layer("block_4a_conv_2").kernel)
    start = kernels["block_4a_conv_2"]
    assert 0 < np.linalg.norm(trained - start) < 0.8 * np.linalg.norm(start)  # from random weights: 1.4 or more
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:
        file.write(text.replace("num_epochs: 1", "num_epochs: 2"))
    assert main(["train", "-e", path, "-r", str(results), "--resume"]) == 0
    assert read_state(last)[0]["epoch"] == 2
    assert load_model(last, verb=None).model.get_layer("block_4a_conv_2").filters == 128


def test_a_tao_checkpoint_goes_on_with_a_fresh_optimizer(tao_model, spec, tmp_path, capsys):
    path, results = spec(("num_epochs: 1", "num_epochs: 3")), tmp_path / "r"
    flags = ["train", "-e", path, "-r", str(results), "-m", str(tao_model), "--initial_epoch", "3"]
    assert main(flags) == 0
    assert f"going on after epoch 2 with the weights of {tao_model}; the optimizer starts afresh" in (
        capsys.readouterr().out
    )
    rows = (results / "ssd_training_log_resnet10.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "3"]
    state, arrays = read_state(results / "weights/ssd_resnet10_last.keras")
    assert state["epoch"] == 3
    assert int(arrays["counter"]) == 3 * state["steps"]
    # the schedule was at its end: the learning rate of the last epoch of three
    assert float(rows[1].split(",")[rows[0].split(",").index("lr")]) < 5e-3


def test_bad_weights_end_with_one_line_before_anything_is_written(tao_model, spec, tao_files, tmp_path, capsys):
    text = tmp_path / "weights.hdf5"
    text.write_text("hello")
    pickled = tmp_path / "weights.pth"
    pickled.write_bytes(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.")
    classes = [('target_class_mapping { key: "star" value: "star" }', "")]
    resuming = [("num_epochs: 1", f'num_epochs: 2 resume_model_path: "{tao_model}"')]
    for changes, flags, message in (
        ((), ["-m", str(text)], "a text file, not a model file"),
        ((), ["-m", str(pickled)], "a pickled PyTorch model"),
        ((), ["-m", str(tmp_path / "none.hdf5")], "no such model file"),
        ((("nlayers: 10", "nlayers: 18"),), ["-m", str(tao_model)], "the file is a resnet10, the spec says resnet18"),
        ((), ["--weights_input", "tf"], "--weights_input tf needs weights: -m FILE"),
        ((), ["--weights_input", "tf", "--resume"], "--weights_input is for the initial weights of a new run"),
        (resuming, ["--weights_input", "tf"], "--weights_input is for the initial weights of a new run"),
        (
            (),
            ["-m", str(tao_model), "--weights_input", "tf", "--initial_epoch", "2"],
            "--weights_input is for the init",
        ),
        (classes, ["-m", str(tao_model), "--initial_epoch", "2"], "the pruned model has 3 classes, the spec makes 2"),
    ):
        results = tmp_path / "results"
        if "--initial_epoch" in flags:
            changes = (*changes, ("num_epochs: 1", "num_epochs: 2"))
        assert main(["train", "-e", spec(*changes), "-r", str(results), *flags]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert "Traceback" not in err
        assert not results.exists()
    with pytest.raises(SystemExit):
        main(["train", "-e", spec(), "-r", str(tmp_path / "r"), "--weights_input", "pytorch"])
    assert "caffe" in capsys.readouterr().err


def test_the_flag_s_names_are_the_conventions():
    from ssd.commands.train import INPUTS
    from ssd.models.pretrained import CONVENTIONS

    assert tuple(CONVENTIONS) == INPUTS
