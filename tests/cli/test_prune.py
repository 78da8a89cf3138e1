"""`ssd prune` and what takes its result: evaluation, detection, retraining, pruning again; and inputs it refuses."""

import json
import shutil

import numpy as np
import pytest

from ssd.cli import main
from ssd.models.checkpoint import load_model, read_state


@pytest.fixture(autouse=True)
def few_runs(monkeypatch):
    monkeypatch.setattr("ssd.models.latency.RUNS", 2)


FEW = ("-pg", 4, "-nf", 4)  # filters, since the small model has few


def prune(*flags):
    return main(["prune", *map(str, flags)])


@pytest.fixture(scope="module")
def pruned_file(model_file, tmp_path_factory):
    """The small model with about half of its parameters."""
    path = tmp_path_factory.mktemp("pruned") / "pruned.keras"
    excluded = ("-el", "block_2a_*", "-el", "conv1")
    assert prune("-m", model_file, "-o", path, "--target_ratio", 0.5, *FEW, *excluded) == 0
    return path


def test_the_report_and_the_record(pruned_file, model_file):
    report = json.loads((pruned_file.parent / "pruning.json").read_text())
    model, original = load_model(pruned_file, verb=None).model, load_model(model_file, verb=None).model
    assert report["parameters"] == [original.count_params(), model.count_params()]
    assert report["pruning_ratio"] == pytest.approx(model.count_params() / original.count_params())
    assert 0.45 < report["pruning_ratio"] <= 0.5
    assert report["macs"][0] > report["macs"][1] > 0
    assert min(report["latency_ms"]) > 0
    assert report["file_bytes"] == [model_file.stat().st_size, pruned_file.stat().st_size]
    rows = {row["name"]: row for row in report["layers"]}
    filters = {name: [each.get_layer(name).filters for each in (original, model)] for name in rows}
    assert filters == {name: row["filters"] for name, row in rows.items()}
    assert len(set(filters["block_2a_conv_1"])) == 1
    assert rows["block_2a_conv_1"]["whole"] == rows["conv1"]["whole"] == "excluded"
    assert rows["block_1a_conv_2"]["whole"] == ""  # though block_2a_conv_1_pad hands its channels on
    assert rows["block_4a_conv_2"]["bound"] == ["block_4a_conv_shortcut"]
    assert (pruned_file.parent / "pruning.png").stat().st_size > 10_000
    lines = [json.loads(line) for line in (pruned_file.parent / "status.json").open()]
    assert [line["status"] for line in lines] == ["RUNNING", "SUCCESS"]
    assert lines[1]["kpi"]["pruning_ratio"] == report["pruning_ratio"]
    (record,) = read_state(pruned_file)[0]["pruning"]
    assert record["excluded_layers"] == ["block_2a_*", "conv1"]
    assert record["removed"] == {name: before - after for name, (before, after) in filters.items() if before > after}
    assert record["removed"]["block_1a_conv_2"] > 0


def test_a_pruned_model_is_evaluated_used_and_pruned_again(pruned_file, kitti_folder, tmp_path, capsys):
    assert main(["evaluate", "-m", str(pruned_file), "-r", str(tmp_path / "e"), "--gallery", "0"]) == 0
    image = str(kitti_folder / "images/000.jpg")
    assert main(["inference", "-m", str(pruned_file), "-i", image, "-r", str(tmp_path / "i"), "-t", "0.01"]) == 0
    capsys.readouterr()
    again = tmp_path / "again.keras"
    assert prune("-m", pruned_file, "-o", again, "--target_ratio", 0.7, *FEW, "-n", "L2", "-eq", "intersection") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"results: {tmp_path}"
    assert "MACs:" in out
    assert "latency, one image on this CPU:" in out
    counts = [load_model(path, verb=None).model.count_params() for path in (pruned_file, again)]
    assert counts[1] <= 0.7 * counts[0]
    assert len(read_state(again)[0]["pruning"]) == 2


def test_retraining_takes_the_files_filters_and_the_specs_settings(pruned_file, spec_file, tmp_path, capsys):
    model = load_model(pruned_file, verb=None).model
    spec = tmp_path / "spec.txt"
    spec.write_text(spec_file.read_text().replace('arch: "resnet"', 'freeze_blocks: 1 arch: "resnet"'))
    assert main(["train", "-e", str(spec), "-m", str(pruned_file), "-r", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert f"{pruned_file} is a pruned resnet10: its filter counts are taken" in out
    trained = load_model(tmp_path / "r/weights/ssd_resnet10_last.keras", verb=None).model
    assert trained.count_params() == model.count_params()
    for name, stays in (("block_1a_conv_1", True), ("block_2a_conv_1", False)):
        kernels = [each.get_layer(name).get_weights()[0] for each in (model, trained)]
        assert np.array_equal(*kernels) == stays


def test_quantization_aware_retraining_and_pruning_of_its_result(pruned_file, spec_file, tmp_path, capsys):
    spec = tmp_path / "spec.txt"
    qat = 'num_epochs: 1 enable_qat: true qat_config { keep_float: "ssd_*" }'
    spec.write_text(spec_file.read_text().replace("num_epochs: 1", qat))
    assert main(["train", "-e", str(spec), "-m", str(pruned_file), "-r", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert "quantization-aware from float weights:" in out
    assert "tensors with INT8 ranges" in out
    last = tmp_path / "r/weights/ssd_resnet10_last.keras"
    assert main(["evaluate", "-m", str(last), "-r", str(tmp_path / "e"), "--gallery", "0"]) == 0
    capsys.readouterr()
    assert prune("-m", last, "-o", tmp_path / "again.keras", "--target_ratio", 0.7, *FEW) == 0
    assert "its float network is pruned" in capsys.readouterr().out
    names = {layer.name for layer in load_model(tmp_path / "again.keras", verb=None).model.layers}
    assert not any(name.endswith("_qdq") for name in names)


def test_a_tao_detector_is_pruned_with_its_spec(tao_files, spec_file, tmp_path, capsys):
    path = tao_files.write(tmp_path / "tao.hdf5", tao_files.resnet10(heads=(3, 4)))
    assert prune("-m", path, "-e", spec_file, "-o", tmp_path / "p.keras", "--target_ratio", 0.6) == 0
    assert load_model(tmp_path / "p.keras").spec.classes == ("disc", "square", "star")
    capsys.readouterr()
    assert prune("-m", path, "-o", tmp_path / "q.keras") == 2
    assert "-e SPEC" in capsys.readouterr().err
    assert not (tmp_path / "q.keras").exists()


def test_a_dry_run_reports_and_writes_nothing(model_file, tmp_path, unchanged, capsys):
    with unchanged:
        assert prune("-m", model_file, "-n", "L2", "-pth", 5, "--dry_run") == 0  # such norms are about 10
    out = capsys.readouterr().out
    assert "block_4a_conv_2" in out
    assert out.splitlines()[-1] == "dry run: nothing was written"


def test_a_spec_that_is_not_needed_and_a_threshold_without_effect_are_said(model_file, spec_file, tmp_path, capsys):
    assert prune("-m", model_file, "-e", spec_file, "-o", tmp_path / "p.keras", "-pth", 0) == 0
    err = capsys.readouterr().err
    assert "has its own spec inside" in err
    assert "nothing was removed" in err


@pytest.fixture(scope="module")
def odd_files(model_file, tmp_path_factory):
    """Files that are no model to prune, by name."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "text.keras").write_text("no model")
    (folder / "empty.keras").write_bytes(b"")
    (folder / "cut.keras").write_bytes(model_file.read_bytes()[:20_000])
    (folder / "model.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    (folder / "model.pth").write_bytes(b"\x80\x02}q\x00.")
    (folder / "model.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    damaged = bytearray(model_file.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (folder / "damaged.keras").write_bytes(damaged)
    shutil.copy(model_file, folder / "good.keras")
    (folder / "file").write_text("")
    shutil.copy(model_file, folder / "good.tlt")
    (folder / "folder.tlt").mkdir()
    return folder


BAD = {
    "no model": (["-m", "none.keras"], "no such model file"),
    "a text": (["-m", "text.keras"], "text.keras"),
    "an empty file": (["-m", "empty.keras"], "empty.keras"),
    "a truncated model": (["-m", "cut.keras"], "cut.keras: damaged: the end of the file is missing"),
    "a damaged model": (["-m", "damaged.keras"], "damaged.keras"),
    "an ONNX": (["-m", "model.onnx"], "model.onnx"),
    "a pickle": (["-m", "model.pth"], "model.pth"),
    "a broken HDF5": (["-m", "model.hdf5"], "model.hdf5"),
    "a folder": (["-m", "."], "a folder"),
    "an unknown layer": (["-el", "block_4a_conv_9"], "did you mean block_4a_conv_"),
    "an unknown pattern": (["-el", "stage_4*", "block_4*"], "-el/--excluded_layers stage_4*: the model has no"),
    "everything excluded": (["--target_ratio", 0.5, "-el", "*"], "at most 0.0% of the parameters can go"),
    "a threshold of 1": (["-pth", 1], "-pth/--pruning_threshold is 1, allowed: 0 up to but without 1"),
    "a negative threshold": (["-pth", -0.1], "is -0.1, allowed"),
    "a negative threshold of L2": (["-n", "L2", "-pth", -1], "is -1, allowed: 0 or more"),
    "a threshold without end": (["-n", "L2", "-pth", "inf"], "is inf, allowed: 0 or more"),
    "a threshold that is no number": (["-pth", "much"], "invalid float value: 'much'"),
    "threshold nan": (["-pth", "nan"], "is nan, allowed"),
    "a ratio of 0": (["--target_ratio", 0], "--target_ratio is 0, allowed: above 0, up to 1"),
    "a ratio above 1": (["--target_ratio", 1.5], "--target_ratio is 1.5"),
    "a ratio out of reach": (["--target_ratio", 0.001], "would be left"),
    "ratio and threshold": (["--target_ratio", 0.5, "-pth", 0.5], "both say how much goes"),
    "granularity 0": (["-pg", 0], "-pg/--pruning_granularity is 0; at least 1 is needed"),
    "a negative minimum": (["-nf", -1], "-nf/--min_num_filters is -1"),
    "another normalizer": (["-n", "L1"], "invalid choice: 'L1'"),
    "another criterion": (["-eq", "mean"], "invalid choice: 'mean'"),
    "an encrypted output without a key": (["-o", "out.tlt"], "a .tlt is encrypted"),
    "an output of another kind": (["-o", "out.hdf5"], "a pruned model is a .keras file"),
    "the model itself": (["-o", "good.keras"], "would replace the model that is pruned"),
    "the encrypted model itself": (
        ["-m", "good.tlt", "-o", "good.tlt", "-k", "KEY"], "would replace the model that is pruned"),
    "an encrypted output in a file": (["-o", "file/out.tlt", "-k", "KEY"], "file is a file, a folder is needed"),
    "an encrypted output that is a folder": (["-o", "folder.tlt", "-k", "KEY"], "is a folder; the name of a file is"),
    "an output in a file": (["-o", "file/out.keras"], "file is a file, a folder is needed"),
    "an output without a name": (["-o", ""], "for example pruned.keras"),
    "results in a file": (["-r", "file"], "file is a file, a folder is needed"),
    "a spec that is not there": (["-e", "none.txt"], "none.txt"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_inputs_end_in_a_clear_line_and_write_nothing(case, odd_files, monkeypatch, capsys):
    monkeypatch.chdir(odd_files)
    flags, message = BAD[case]
    words = [word for flag in (["-m", "good.keras"], ["-o", "out.keras"]) if flag[0] not in flags for word in flag]
    before = sorted((path.name, path.stat().st_size) for path in odd_files.iterdir())
    try:
        code = prune(*words, *flags)
    except SystemExit as stop:  # argparse
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert sorted((path.name, path.stat().st_size) for path in odd_files.iterdir()) == before


def test_an_interrupt_is_reported(model_file, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssd.models.latency.latencies", interrupted)
    assert prune("-m", model_file, "-o", tmp_path / "p.keras") == 130
    last = json.loads((tmp_path / "status.json").read_text().splitlines()[-1])
    assert (last["status"], last["message"]) == ("FAILURE", "Pruning was interrupted")


def test_a_folder_that_cannot_be_written_is_said_before_the_work(model_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ssd.commands.flags.os.access", lambda path, mode: path != tmp_path)
    assert prune("-m", model_file, "-o", tmp_path / "deeper/p.keras") == 2
    out, err = capsys.readouterr()
    assert f"-o/--output_file {tmp_path}/deeper/p.keras: cannot write in {tmp_path}: Permission denied" in err
    assert not out and not list(tmp_path.iterdir())


def test_an_output_or_a_dry_run_is_needed(model_file, capsys):
    assert prune("-m", model_file) == 2
    assert "-o/--output_file is missing" in capsys.readouterr().err


def test_retraining_for_classes_of_other_names_warns(pruned_file, spec_file, tmp_path, capsys):
    spec = spec_file.parent / "renamed.txt"
    spec.write_text(spec_file.read_text().replace('key: "star" value: "star"', 'key: "star" value: "comet"'))
    assert main(["train", "-e", str(spec), "-m", str(pruned_file), "-r", str(tmp_path / "r"), "--dry_run"]) == 0
    assert "is for disc, square, star, the spec for " in capsys.readouterr().err


def test_retraining_for_other_classes_is_refused(pruned_file, spec_file, tmp_path, unchanged, capsys):
    spec = spec_file.parent / "two.txt"
    spec.write_text(spec_file.read_text().replace('key: "star" value: "star"', 'key: "star" value: "disc"'))
    with unchanged:
        assert main(["train", "-e", str(spec), "-m", str(pruned_file), "-r", str(tmp_path / "r")]) == 2
    assert "the pruned model has 3 classes, the spec makes 2" in capsys.readouterr().err
