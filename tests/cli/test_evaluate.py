import json
import shutil

import pytest
from PIL import Image

from ssd.cli import main


def test_writes_and_shows_everything(model_file, tmp_path, capsys):
    assert main(["evaluate", "-m", str(model_file), "-r", str(tmp_path / "out"), "-b", "3"]) == 0
    shown = capsys.readouterr().out
    assert "n/a (0 objects)" in shown  # no star in the data
    assert "mAP 0." in shown
    assert "COCO AP" in shown
    assert "10 images in" in shown
    assert shown.splitlines()[-1] == f"results: {tmp_path / 'out'}"

    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["images"] == 10
    assert metrics["average_precision_mode"] == "SAMPLE"
    assert list(metrics["classes"]) == ["disc", "square", "star"]
    assert metrics["classes"]["star"]["AP"] is None
    assert metrics["classes"]["disc"]["objects"] == 8
    assert metrics["classes"]["disc"]["difficult_objects"] == 1
    assert set(metrics["coco"]) == {*("AP", "AP50", "AP75", "APs", "APm", "APl"), *("AR1", "AR10", "AR100")} | {
        *("ARs", "ARm", "ARl")
    }
    for name in ("PR_curve.png", "worst_images.png"):
        assert Image.open(tmp_path / "out" / name).size[0] > 300

    events = [json.loads(line) for line in (tmp_path / "out/status.json").read_text().splitlines()]
    assert [event["status"] for event in events] == ["STARTED", "SUCCESS"]
    assert events[0]["message"] == "Starting SSD evaluation."
    assert events[1]["kpi"] == {"mAP": metrics["mAP"]}


def test_results_go_beside_the_model_without_a_curve_that_nobody_asked_for(model_file, tmp_path, capsys):
    model = tmp_path / "weights" / "model.keras"
    model.parent.mkdir()
    shutil.copy(model_file, model)
    assert main(["evaluate", "-m", str(model), "--gallery", "0"]) == 0
    assert sorted(path.name for path in (tmp_path / "weights/evaluate").iterdir()) == ["metrics.json", "status.json"]
    assert str(tmp_path / "weights/evaluate") in capsys.readouterr().out


def test_pictures_of_an_earlier_evaluation_do_not_stay(model_file, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "worst_images.png").write_bytes(b"of another model")
    (folder / "mine.png").write_bytes(b"")
    assert main(["evaluate", "-m", str(model_file), "-r", str(folder), "--gallery", "0"]) == 0
    names = ["PR_curve.png", "metrics.json", "mine.png", "status.json"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_the_batch_size_changes_nothing_and_quiet_says_nothing(model_file, tmp_path, capfd):
    found = []
    for size in ("1", "16"):
        flags = ["-r", str(tmp_path / size), "-b", size, "--gallery", "0", "-q"]
        assert main(["evaluate", "-m", str(model_file), *flags]) == 0
        found.append(json.loads((tmp_path / size / "metrics.json").read_text()))
    assert found[1]["mAP"] == pytest.approx(found[0]["mAP"], abs=1e-6)
    assert found[1]["coco"] == pytest.approx(found[0]["coco"], abs=1e-6)
    assert capfd.readouterr().out == ""


def test_the_spec_given_goes_before_the_one_inside(model_file, spec_file, tmp_path):
    text = spec_file.read_text().replace(
        "batch_size: 4 matching", "average_precision_mode: INTEGRATE batch_size: 4 matching"
    )
    (tmp_path / "spec.txt").write_text(text)
    out = tmp_path / "out"
    assert main(["evaluate", "-m", str(model_file), "-e", str(tmp_path / "spec.txt"), "-r", str(out)]) == 0
    assert json.loads((out / "metrics.json").read_text())["average_precision_mode"] == "INTEGRATE"


def test_folders_given_go_before_those_of_the_spec(model_file, kitti_folder, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    shutil.copy(kitti_folder / "images/003.png", tmp_path / "images")
    shutil.copy(kitti_folder / "labels/003.txt", tmp_path / "labels")
    folders = ["-i", str(tmp_path / "images"), "-l", str(tmp_path / "labels")]
    assert main(["evaluate", "-m", str(model_file), *folders, "-r", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/metrics.json").read_text())["images"] == 1


def test_a_model_that_detects_nothing_is_explained(model_file, spec_file, tmp_path, capsys):
    (tmp_path / "spec.txt").write_text(
        spec_file.read_text().replace("confidence_threshold: 0.01", "confidence_threshold: 0.999")
    )
    flags = ["-e", str(tmp_path / "spec.txt"), "-r", str(tmp_path / "out")]
    assert main(["evaluate", "-m", str(model_file), *flags]) == 0
    captured = capsys.readouterr()
    assert "mAP 0.0000" in captured.out
    assert "the model detects nothing in any image. Probable causes:" in captured.err
    assert "1. nms_config.confidence_threshold is 0.999" in captured.err


def test_a_damaged_image_ends_in_a_named_failure(model_file, kitti_folder, tmp_path, capsys):
    shutil.copytree(kitti_folder / "images", tmp_path / "images")
    pixels = bytearray((tmp_path / "images/003.png").read_bytes())
    middle = pixels.index(b"IDAT") + 8
    pixels[middle : middle + 40] = bytes(40)
    (tmp_path / "images/003.png").write_bytes(pixels)
    folders = ["-i", str(tmp_path / "images"), "-l", str(kitti_folder / "labels")]
    assert main(["evaluate", "-m", str(model_file), *folders, "-r", str(tmp_path / "out")]) == 2
    assert "003.png" in capsys.readouterr().err
    last = json.loads((tmp_path / "out/status.json").read_text().splitlines()[-1])
    assert last["status"] == "FAILURE"
    assert not (tmp_path / "out/metrics.json").exists()


@pytest.fixture
def bad(tmp_path, kitti_folder, model_file, spec_file):
    """Files to go wrong with, by the name that `test_bad_input` gives them."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "cut.keras").write_bytes(model_file.read_bytes()[:5000])
    (tmp_path / "text.keras").write_text("no model")
    (tmp_path / "old.hdf5").write_bytes(b"\x89HDF")
    (tmp_path / "syntax.txt").write_text("ssd_config {")
    text = spec_file.read_text()
    (tmp_path / "gone.txt").write_text(text.replace(str(kitti_folder), str(tmp_path / "gone")))
    (tmp_path / "classes.txt").write_text(text.replace('  target_class_mapping { key: "star" value: "star" }\n', ""))
    (tmp_path / "size.txt").write_text(text.replace("output_width: 128", "output_width: 160"))
    (tmp_path / "labels").mkdir()
    for path in (kitti_folder / "labels").iterdir():
        (tmp_path / "labels" / path.name).write_text(path.read_text().replace("square", "cube").replace("disc", "ball"))
    names = {"model": model_file, "images": kitti_folder / "images", "good": kitti_folder / "labels", "here": tmp_path}
    return lambda word: word.format(**names)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("-m {here}/none.keras", "no such model file"),
        ("-m {here}/empty", "a folder, not a model file"),
        ("-m {here}/cut.keras", "damaged"),
        ("-m {here}/text.keras", "not a model file"),
        ("-m {here}/old.hdf5", "no known kind of model file, or damaged at its start"),
        ("-m {here}/notes.txt", "not a model file"),
        ("-m {model} -e {here}/none.txt", "none.txt"),
        ("-m {model} -e {here}/syntax.txt", "syntax.txt:1"),
        ("-m {model} -e {here}/gone.txt", "gone"),
        ("-m {model} -e {here}/classes.txt", "3 classes"),
        ("-m {model} -e {here}/size.txt", "128x128"),
        ("-m {model} -b 0", "-b/--batch_size is 0"),
        ("-m {model} -b -4", "-b/--batch_size is -4"),
        ("-m {model} --gallery -1", "--gallery is -1"),
        ("-m {model} -i {images}", "-i/--image_dir needs -l/--label_dir too"),
        ("-m {model} -l {good}", "-l/--label_dir needs -i/--image_dir too"),
        ("-m {model} -i {here}/none -l {good}", "no such folder"),
        ("-m {model} -i {here}/empty -l {here}/empty", "empty"),
        ("-m {model} -i {images} -l {here}/labels", "cube"),
        ("-m {model} -r {here}/notes.txt", "this is a file, a folder is needed"),
    ],
)
def test_bad_input(flags, message, bad, unchanged, tmp_path, capsys):
    arguments = [bad(word) for word in flags.split()]
    if "-r" not in arguments:
        arguments += ["-r", str(tmp_path / "out")]
    with unchanged:
        assert main(["evaluate", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith(("error: ", "warning: "))
    assert "Traceback" not in captured.err


def test_a_model_is_needed(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["evaluate"])
    assert caught.value.code == 2
    assert "-m/--model_path" in capsys.readouterr().err


def test_an_interrupt_is_reported(model_file, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssd.evaluation.run.evaluate_loader", interrupted)
    assert main(["evaluate", "-m", str(model_file), "-r", str(tmp_path)]) == 130
    last = json.loads((tmp_path / "status.json").read_text().splitlines()[-1])
    assert (last["status"], last["message"]) == ("FAILURE", "Evaluation was interrupted")
