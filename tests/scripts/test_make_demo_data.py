"""The demo data: what the labels promise holds, in KITTI's form and in COCO's; the same flags give the same bytes."""

import json
from pathlib import Path

import make_demo_data as script
import numpy as np
import pytest
from PIL import Image

TRAIN, VAL, TEST = 40, 16, 3


def make(folder, *flags):
    counts = ["--train", str(TRAIN), "--val", str(VAL), "--test", str(TEST), "--size", "160x120"]
    assert script.main(["--output", str(folder), *counts, *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make(tmp_path_factory.mktemp("demo"))


def rows(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def labelled(data: Path, fold: str):
    """(image, rows) of each image of a fold."""
    images = sorted((data / fold / "image_2").iterdir())
    return [(Image.open(path), rows(data / fold / "label_2" / f"{path.stem}.txt")) for path in images]


def test_images_and_labels_come_in_pairs(data):
    assert len(labelled(data, "training")) == TRAIN
    assert len(labelled(data, "validation")) == VAL
    assert len(list((data / "testing" / "image_2").iterdir())) == TEST
    assert not (data / "testing" / "label_2").exists()


def test_rows_have_15_columns_and_boxes_lie_in_the_image(data):
    for image, objects in labelled(data, "training") + labelled(data, "validation"):
        for row in objects:
            assert len(row) == 15
            xmin, ymin, xmax, ymax = (float(value) for value in row[4:8])
            assert 0 <= xmin < xmax <= image.width
            assert 0 <= ymin < ymax <= image.height


def test_the_hard_cases_are_there(data):
    pairs = labelled(data, "training")
    every = [row for _, objects in pairs for row in objects]
    digits = [row for row in every if row[0] != "DontCare"]
    assert {row[0] for row in digits} == {f"digit_{number}" for number in range(10)}
    assert any(not objects for _, objects in pairs), "no empty image"
    assert any(row[0] == "DontCare" for row in every)
    assert {int(row[2]) for row in digits} >= {0, 1}, "nothing is occluded"
    assert any(float(row[1]) > 0 for row in digits), "nothing is cut by the border"
    heights = [(float(row[7]) - float(row[5])) / image.height for image, objects in pairs for row in objects]
    assert max(heights) > 3 * min(heights)
    assert len({image.size for image, _ in pairs}) > 1


def test_validation_sees_other_digits_and_photographs():
    training, _ = script.load_digits(training=True)
    others, _ = script.load_digits(training=False)
    assert len(training) + len(others) == 1797
    assert not {scan.tobytes() for scan in training} & {scan.tobytes() for scan in others}
    assert not set(script.TRAINING_PHOTOS) & set(script.OTHER_PHOTOS)


@pytest.mark.parametrize(("fold", "name"), [("training", "train"), ("validation", "val")])
def test_coco_says_the_same_as_kitti(data, fold, name):
    coco = json.loads((data / "annotations" / f"instances_{name}.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert len({annotation["id"] for annotation in coco["annotations"]}) == len(coco["annotations"])
    for entry in coco["images"]:
        path = data / fold / "image_2" / entry["file_name"]
        assert Image.open(path).size == (entry["width"], entry["height"])
        here = [annotation for annotation in coco["annotations"] if annotation["image_id"] == entry["id"]]
        there = rows(data / fold / "label_2" / f"{path.stem}.txt")
        assert len(here) == len(there)
        for annotation, row in zip(here, there, strict=True):
            assert annotation["iscrowd"] == (row[0] == "DontCare")
            assert row[0] in ("DontCare", names[annotation["category_id"]])
            x, y, width, height = annotation["bbox"]
            np.testing.assert_allclose([x, y, x + width, y + height], [float(value) for value in row[4:8]], atol=0.01)


def test_sequences_name_every_training_frame_once(data):
    sequences = json.loads((data / "sequence_to_frames.json").read_text())
    frames = [frame for frames in sequences.values() for frame in frames]
    assert len(sequences) > 2
    assert sorted(frames) == [f"{index:06d}" for index in range(TRAIN)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(data, tmp_path):
    first = contents(data)
    assert contents(make(tmp_path / "again")) == first
    other = contents(make(tmp_path / "other", "--seed", "2"))
    assert other["training/image_2/000000.jpg"] != first["training/image_2/000000.jpg"]


def test_gray_images_have_one_channel_and_the_same_labels(data, tmp_path):
    gray = make(tmp_path / "gray", "--gray")
    assert {image.mode for image, _ in labelled(gray, "training")} == {"L"}
    assert contents(gray / "training" / "label_2") == contents(data / "training" / "label_2")


@pytest.mark.parametrize("flags", [("--size", "10x10"), ("--size", "wide"), ("--train", "-3"), ()])
def test_wrong_flags_are_refused_before_anything_is_written(flags, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out")] if flags else []
    with pytest.raises(SystemExit) as stop:
        script.main([*output, *flags])
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
