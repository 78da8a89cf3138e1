import json

import numpy as np
import pytest

from ssd.evaluation.coco_metrics import NAMES, coco_report
from ssd.evaluation.results import ImageResult


def random_results(seed, images=30, classes=3):
    random = np.random.default_rng(seed)
    results = []
    for at in range(images):
        size = (int(random.integers(60, 900)), int(random.integers(60, 900)))
        count = int(random.integers(0, 8))
        corner = random.uniform(0, 0.7, (count, 2))
        truth = np.concatenate([corner, corner + random.uniform(0.02, 0.3, (count, 2))], axis=1)
        kinds = random.integers(1, classes + 1, count)
        boxes = np.repeat(truth, 2, axis=0) + random.normal(0, 0.01, (2 * count, 4))
        boxes = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4).clip(0, 1)
        scores = -np.sort(-random.uniform(0, 1, 2 * count))
        results.append(
            ImageResult(
                name=str(at),
                size=size,
                boxes=boxes.astype(np.float32),
                scores=scores.astype(np.float32),
                classes=np.repeat(kinds, 2).astype(np.int32),
                truth_boxes=truth.astype(np.float32),
                truth_classes=kinds.astype(np.int32),
                truth_difficult=random.random(count) < 0.1,
            )
        )
    return results


def one(detections, objects, size=(100, 100)):
    return ImageResult(
        name="image",
        size=size,
        boxes=np.array([row[2] for row in detections], np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in detections], np.float32),
        classes=np.array([row[0] for row in detections], np.int32),
        truth_boxes=np.array([row[1] for row in objects], np.float32).reshape(-1, 4),
        truth_classes=np.array([row[0] for row in objects], np.int32),
        truth_difficult=np.array([len(row) > 2 for row in objects], bool),
    )


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_reading_files(seed, tmp_path, capsys):
    """The plain way: annotations and results as JSON files, read by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = random_results(seed)
    annotations, detections = [], []
    for at, result in enumerate(results):
        scale = np.array([result.size[1], result.size[0]] * 2, np.float64)
        for box, kind, crowd in zip(result.truth_boxes, result.truth_classes, result.truth_difficult, strict=True):
            left, top, right, bottom = (np.clip(box.astype(np.float64), 0, 1) * scale).tolist()
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": at,
                    "category_id": int(kind),
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": int(crowd),
                }
            )
        for box, kind, score in zip(result.boxes, result.classes, result.scores, strict=True):
            left, top, right, bottom = (box.astype(np.float64) * scale).tolist()
            row = {"image_id": at, "category_id": int(kind), "score": float(score)}
            detections.append({**row, "bbox": [left, top, right - left, bottom - top]})
    truth_file, found_file = tmp_path / "truth.json", tmp_path / "found.json"
    images = [{"id": at} for at in range(len(results))]
    categories = [{"id": index, "name": name} for index, name in enumerate("abc", start=1)]
    truth_file.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    found_file.write_text(json.dumps(detections))
    truth = COCO(str(truth_file))
    plain = COCOeval(truth, truth.loadRes(str(found_file)), "bbox")
    plain.evaluate()
    plain.accumulate()
    plain.summarize()
    capsys.readouterr()

    report = coco_report(results, ("a", "b", "c"))
    assert capsys.readouterr().out == ""
    for name, value in zip(NAMES, plain.stats, strict=True):
        assert report[name] == (None if value < 0 else pytest.approx(value, abs=1e-12)), name


def test_perfect_detections():
    box = (0.1, 0.1, 0.6, 0.6)
    report = coco_report([one([(1, 0.9, box)], [(1, box)])], ("a", "absent"))
    assert [report[name] for name in ("AP", "AP50", "AR100")] == pytest.approx([1.0] * 3)
    assert report["classes"] == {
        "a": {"AP": pytest.approx(1.0), "AP50": pytest.approx(1.0)},
        "absent": dict.fromkeys(["AP", "AP50"]),
    }


def test_sizes_are_those_of_the_original_image():
    box = (0.1, 0.1, 0.2, 0.2)
    small = coco_report([one([(1, 0.9, box)], [(1, box)], size=(100, 100))], ("a",))  # 10 x 10 pixels
    large = coco_report([one([(1, 0.9, box)], [(1, box)], size=(1000, 1000))], ("a",))  # 100 x 100
    assert (small["APs"], small["APm"], small["APl"]) == (pytest.approx(1.0), None, None)
    assert (large["APs"], large["APm"], large["APl"]) == (None, None, pytest.approx(1.0))


def test_difficult_objects_are_neither_missed_nor_false():
    easy, hard = (0.1, 0.1, 0.3, 0.3), (0.6, 0.6, 0.9, 0.9)
    found = coco_report([one([(1, 0.9, hard), (1, 0.8, easy)], [(1, easy), (1, hard, True)])], ("a",))
    missed = coco_report([one([(1, 0.8, easy)], [(1, easy), (1, hard, True)])], ("a",))
    assert found["AP"] == missed["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("detections", "objects", "expected"),
    [
        ([], [], None),
        ([(1, 0.9, (0, 0, 1, 1))], [], None),
        ([], [(1, (0, 0, 1, 1))], 0.0),
    ],
)
def test_nothing_is_none_or_zero_and_never_minus_one(detections, objects, expected):
    report = coco_report([one(detections, objects)], ("a", "b"))
    assert report["AP"] == expected
    assert report["classes"]["a"]["AP"] == expected
    assert report["classes"]["b"]["AP"] is None


def test_no_images():
    assert coco_report([], ("a",))["AP"] is None
