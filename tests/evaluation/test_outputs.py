"""What an evaluation shows: the table, metrics.json, the curve, the gallery, the causes."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ssd.evaluation import report as text
from ssd.evaluation.average_precision import voc_report
from ssd.evaluation.diagnosis import diagnose
from ssd.evaluation.gallery import FALSE, MISSED, kept_detections, mistakes, worst_images
from ssd.evaluation.matching import match_voc
from ssd.evaluation.plots import curve, pr_curve
from ssd.evaluation.results import ImageResult

LEFT, RIGHT = (0.1, 0.2, 0.4, 0.6), (0.6, 0.3, 0.9, 0.8)
CLASSES = ("car", "bicycle", "sofa")


def result(name, detections, objects, index=0, size=(120, 160)):
    return ImageResult(
        name=name,
        size=size,
        boxes=np.array([row[2] for row in detections], np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in detections], np.float32),
        classes=np.array([row[0] for row in detections], np.int32),
        truth_boxes=np.array([row[1] for row in objects], np.float32).reshape(-1, 4),
        truth_classes=np.array([row[0] for row in objects], np.int32),
        truth_difficult=np.array([len(row) > 2 for row in objects], bool),
        index=index,
    )


@pytest.fixture
def results():
    return [
        result("right.png", [(1, 0.9, LEFT)], [(1, LEFT)], 0),
        result("wrong.png", [(1, 0.9, RIGHT), (1, 0.85, (0, 0, 0.2, 0.2))], [(1, LEFT), (2, RIGHT)], 1),
        result("half.png", [(2, 0.8, LEFT)], [(2, LEFT), (2, RIGHT)], 2),
        result("empty.png", [], [], 3),
    ]


def evaluated(results, classes=CLASSES):
    matches = match_voc(results, 0.5)
    return voc_report(results, classes, 0.5, "SAMPLE", matches), matches


def picture_bytes(index):
    buffer = io.BytesIO()
    Image.new("L" if index % 2 else "RGB", (160, 120), 90).save(buffer, "PNG")
    return buffer.getvalue()


def test_table_names_absent_classes(results):
    lines = text.table(evaluated(results)[0]).splitlines()
    assert lines[0].split()[:4] == ["class", "objects", "detections", "AP"]
    assert lines[2].split()[:3] == ["car", "2", "3"]
    assert lines[4].split() == ["sofa", "0", "0", "n/a", "(0", "objects)"]


def test_mean_line_says_what_it_leaves_out(results):
    assert "1 of 3 classes without objects left out" in text.mean_line(evaluated(results)[0])
    assert text.mean_line(evaluated([result("a", [], [])])[0]).startswith("mAP n/a")


def test_json_has_null_for_absent_classes(results):
    report = evaluated(results)[0]
    data = json.loads(json.dumps(text.as_json(report, None)))
    assert data["classes"]["sofa"]["AP"] is None
    assert data["mAP"] == pytest.approx((data["classes"]["car"]["AP"] + data["classes"]["bicycle"]["AP"]) / 2)


def test_mistakes_of_each_image(results):
    report, matches = evaluated(results)
    missed, false = mistakes(report, matches, kept_detections(report, matches), len(results))
    assert missed.tolist() == [0, 2, 1, 0]
    assert false.tolist() == [0, 1, 0, 0]  # the best threshold for cars, 0.9, leaves the second one out


def test_gallery_shows_the_worst_first(results, tmp_path):
    report, matches = evaluated(results)
    path = tmp_path / "worst.png"
    assert worst_images(results, report, matches, picture_bytes, path, 12) == ["wrong.png", "half.png"]
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    for color in (MISSED, FALSE):
        assert (pixels == color).all(axis=1).any()


def test_no_gallery_without_mistakes(tmp_path):
    results = [result("a", [(1, 0.9, LEFT)], [(1, LEFT)])]
    assert worst_images(results, *evaluated(results), picture_bytes, tmp_path / "worst.png") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["SAMPLE", "INTEGRATE"])
def test_pr_curve_is_a_picture(results, mode, tmp_path):
    for number, images in enumerate((results, [result("a", [], [(1, LEFT)])], [result("a", [], [])])):
        pr_curve(voc_report(images, CLASSES, 0.5, mode), tmp_path / f"{number}.png")
        assert Image.open(tmp_path / f"{number}.png").size[0] > 400


def test_integrate_draws_the_curve_whose_area_is_the_ap():
    true = np.array([True, False, True, True, False, False, True, False])
    found = np.cumsum(true)
    precision, recall = found / np.arange(1, 9), found / 5
    x, y = curve(precision, recall, "INTEGRATE")
    area = 1 / 5 * (1 + 3 / 4 + 3 / 4 + 4 / 7)
    assert np.trapezoid(y, x) == pytest.approx(area)
    assert (np.diff(x) >= 0).all() and (np.diff(y) <= 0).all()


def spec(threshold=0.01):
    mapping = (("auto", "car"), ("bike", "bicycle"))
    return SimpleNamespace(
        dataset=SimpleNamespace(class_mapping=mapping), nms=SimpleNamespace(confidence_threshold=threshold)
    )


def test_no_causes_where_something_was_found(results):
    report, matches = evaluated(results)
    assert diagnose(results, report, matches, spec()) == []


def test_causes_of_no_objects():
    results = [result("a", [(1, 0.9, LEFT)], [])]
    lines = diagnose(results, *evaluated(results), spec())
    assert lines[0].startswith("the 1 validation images have no object of the classes car, bicycle, sofa")
    assert "auto, bike" in lines[1]


def test_causes_of_only_difficult_objects():
    results = [result("a", [], [(1, LEFT, True)])]
    assert "all 1 objects are marked difficult" in diagnose(results, *evaluated(results), spec())[1]


def test_causes_of_no_detections_begin_with_a_high_threshold():
    results = [result("a", [], [(1, LEFT)])]
    assert "hardly been trained" in diagnose(results, *evaluated(results), spec())[1]
    assert "confidence_threshold is 0.5" in diagnose(results, *evaluated(results), spec(0.5))[1]


def test_causes_of_swapped_classes():
    results = [result("a", [(2, 0.9, LEFT), (1, 0.8, RIGHT)], [(1, LEFT), (2, RIGHT)])]
    assert "2 of 2 objects are found under a wrong class" in diagnose(results, *evaluated(results), spec())[1]


def test_causes_of_boxes_beside_the_objects():
    results = [result("a", [(1, 0.9, (0.1, 0.2, 0.25, 0.6))], [(1, LEFT), (2, RIGHT)])]
    assert "hardly been trained" in diagnose(results, *evaluated(results), spec())[1]
