import json

import numpy as np
import pytest
from PIL import Image

from ssd.data.kitti import parse_label
from ssd.errors import RunError
from ssd.inference.images import output_names
from ssd.inference.outputs import Writer, label_line

CLASSES = ("car", "traffic light")
BOXES = np.array([[0.25, 0.5, 0.75, 1.0], [-0.1, 0.0, 0.5, 1.2], [0.1, 0.1, 0.2, 0.2]], np.float32)
SCORES = np.array([0.875, 0.5, 0.25], np.float32)
KINDS = np.array([2, 1, 1], np.int32)


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / "in" / name for name in ("a.png", "b.jpg", "c.bmp", "d.gif")]
    paths[0].parent.mkdir()
    for path in paths:
        Image.new("RGB", (400, 200), "gray").save(path)
    return paths


def write(images, folder, threshold=0.3, boxes=BOXES, scores=SCORES, kinds=KINDS):
    writer = Writer(images, output_names(images, folder), CLASSES, threshold)
    with writer:
        for index in reversed(range(len(images))):
            writer.add(index, (200, 400), boxes, scores, kinds)
    return writer


def test_a_label_line_has_sixteen_columns():
    line = label_line("car", np.array([587.01, 173.33, 614.12, 200.12]), 0.8731)
    assert line == "car 0 0 0 587.010 173.330 614.120 200.120 0 0 0 0 0 0 0 0.873100"
    assert len(label_line("traffic light", np.zeros(4), 0.5).split()) == 16


def test_labels_are_clipped_pixels_in_descending_score_and_read_back(images, tmp_path):
    write(images, tmp_path / "out")
    text = (tmp_path / "out/labels/a.txt").read_text()
    assert text.splitlines() == [
        "trafficlight 0 0 0 100.000 100.000 300.000 200.000 0 0 0 0 0 0 0 0.875000",
        "car 0 0 0 0.000 0.000 200.000 200.000 0 0 0 0 0 0 0 0.500000",
    ]
    rows, problems = parse_label(text, "a.txt")
    assert not problems
    assert [(row.name, row.score) for row in rows] == [("trafficlight", 0.875), ("car", 0.5)]


def test_every_image_has_a_picture_and_a_label_without_detections_too(images, tmp_path):
    writer = write(images, tmp_path / "out", 0.9)
    assert sorted(path.name for path in (tmp_path / "out/images_annotated").iterdir()) == [
        "a.png",
        "b.jpg",
        "c.bmp",
        "d.gif",
    ]
    assert {path.read_text() for path in (tmp_path / "out/labels").iterdir()} == {""}
    assert not writer.detections
    assert writer.best_score == 0.875
    assert writer.json_text() == "[]\n"


def test_pictures_keep_the_format_of_their_suffix(images, tmp_path):
    write(images, tmp_path / "out")
    formats = [Image.open(tmp_path / "out/images_annotated" / path.name).format for path in images]
    assert formats == ["PNG", "JPEG", "BMP", "GIF"]
    assert (np.asarray(Image.open(tmp_path / "out/images_annotated/a.png")) != 128).any()


def test_a_turned_photograph_is_drawn_upright(tmp_path):
    path = tmp_path / "in.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (400, 200), "gray").save(path, exif=exif)
    with Writer([path], output_names([path], tmp_path / "out"), CLASSES, 0.3) as writer:
        writer.add(0, (400, 200), BOXES, SCORES, KINDS)
    picture = Image.open(tmp_path / "out/images_annotated/in.jpg")
    assert picture.size == (200, 400)
    assert picture.getexif().get(0x0112, 1) == 1


def test_json_is_in_the_order_of_the_images_and_a_coco_result_list(images, tmp_path, capsys):
    from pycocotools.coco import COCO

    rows = json.loads(write(images, tmp_path / "out").json_text())
    assert [row["image_id"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert rows[0] == {
        "image_id": 0,
        "file_name": str(images[0]),
        "category_id": 2,
        "category": "traffic light",
        "bbox": [100.0, 100.0, 200.0, 100.0],
        "score": 0.875,
    }
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": index} for index in range(4)],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [],
    }
    truth.createIndex()
    assert len(truth.loadRes(rows).anns) == 8


def test_counts_per_class(images, tmp_path):
    assert write(images, tmp_path / "out").detections == {"car": 4, "traffic light": 4}


def test_an_error_on_a_thread_comes_up(images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/labels").write_text("a file where the folder should be")
    with pytest.raises(RunError, match="cannot write the results"):
        write(images, tmp_path / "out")
