"""`ssd train --dry_run` as a user runs it: the reports, one step, and nothing that a later run would stumble over."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ssd.cli import main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten training images with a square and a disc each, the last without; a copy of one of them for validation."""
    folder = tmp_path_factory.mktemp("dry")
    rng = np.random.default_rng(0)
    for name in ("training", "validation"):
        for kind in ("images", "labels"):
            (folder / name / kind).mkdir(parents=True)
    for number in range(10):
        rows = []
        for kind in ("square", "disc") if number < 9 else ():
            left, top, side = rng.integers(20, 60, 3)
            rows.append(f"{kind} 0 0 0 {left} {top} {left + side} {top + side} 0 0 0 0 0 0 0\n")
        pixels = rng.integers(0, 255, (130, 150, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "training" / "images" / f"{number:03}.png")
        (folder / "training" / "labels" / f"{number:03}.txt").write_text("".join(rows))
    shutil.copy(folder / "training" / "images" / "001.png", folder / "validation" / "images" / "copy.png")
    shutil.copy(folder / "training" / "labels" / "001.txt", folder / "validation" / "labels" / "copy.txt")
    return folder


def test_a_dry_run_reports_and_leaves_no_run_behind(data, spec_text, tmp_path, capsys):
    spec, results = tmp_path / "spec.txt", tmp_path / "results"
    spec.write_text(spec_text(data / "training", data / "validation"))
    assert main(["train", "-e", str(spec), "-r", str(results), "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"reports: {results / 'dry_run'}"
    for line in (
        "Model ssd_resnet, input 128x128x3",
        "backbone block 4",
        "Training data: 10 images, 1 without objects, 18 objects",
        "no objects of star: nothing to learn from",
        "1 x in the training data too, in 1 image:",
        "Anchors and training boxes, both at 128x128",
        "18 boxes are too few to suggest other anchors",
        "One training step: 4 images, loss ",
        "(finite)",
    ):
        assert line in out, line
    assert [path.name for path in results.iterdir()] == ["dry_run"]
    report = json.loads((results / "dry_run" / "report.json").read_text())
    assert report["step"]["finite"]
    assert report["step"]["loss"] > 0
    assert report["model"]["anchors"] == sum(each["anchors"] for each in report["model"]["maps"])
    assert report["training_data"]["classes"]["star"]["objects"] == 0
    assert report["validation_data"]["findings"]["in the training data too"] == 1
    assert report["anchors"]["groups"]["all"]["objects"] == 18
    assert report["anchors"]["suggestion"] is None  # of so few boxes
    with Image.open(results / "dry_run" / "anchors.png") as picture:
        assert picture.size[0] > 1000
    listed = (results / "dry_run" / "suspicious_validation.csv").read_text()
    assert "001.png of the training data" in listed
    assert (results / "dry_run" / "report.txt").read_text().count("One training step") == 1


def test_no_object_at_all_is_said_in_one_line(data, spec_text, tmp_path, capsys):
    empty, spec = tmp_path / "empty", tmp_path / "spec.txt"
    shutil.copytree(data / "training", empty)
    for label in (empty / "labels").iterdir():
        label.write_text("")
    spec.write_text(spec_text(empty, data / "validation"))
    assert main(["train", "-e", str(spec), "-r", str(tmp_path / "r"), "--dry_run"]) == 2
    err = capsys.readouterr().err
    assert "none of the 0 labelled objects in 10 training images" in err
    assert "the label files are empty" in err
    assert not (tmp_path / "r").exists()


def test_the_reports_outlive_a_step_that_fails(data, spec_text, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr("ssd.training.step.TrainingModel.train_on_batch", full)
    spec, results = tmp_path / "spec.txt", tmp_path / "results"
    spec.write_text(spec_text(data / "training", data / "validation"))
    assert main(["train", "-e", str(spec), "-r", str(results), "--dry_run"]) == 1
    assert "out of memory" in (said := capsys.readouterr().err) and "--resume" not in said
    assert "memory of a training step" in (results / "dry_run" / "report.txt").read_text()
    assert "memory" in json.dumps(json.loads((results / "dry_run" / "report.json").read_text())["model"])
