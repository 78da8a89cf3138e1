import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd.evaluation.average_precision import average_precision, voc_report
from ssd.evaluation.matching import iou_table, match_voc
from ssd.evaluation.results import ImageResult


def image(detections=(), objects=(), name="image", size=(100, 100)):
    """Rows of (class, score, box) and of (class, box[, difficult])."""
    detections = sorted(detections, key=lambda row: -row[1])
    return ImageResult(
        name=name,
        size=size,
        boxes=np.array([row[2] for row in detections], np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in detections], np.float32),
        classes=np.array([row[0] for row in detections], np.int32),
        truth_boxes=np.array([row[1] for row in objects], np.float32).reshape(-1, 4),
        truth_classes=np.array([row[0] for row in objects], np.int32),
        truth_difficult=np.array([len(row) > 2 and row[2] for row in objects], bool),
    )


def random_results(seed, images=40, classes=3, difficult=0.0, ties=False):
    """Crowded scenes: detections are shaken copies of objects, some twice, some of another class, some of nothing."""
    random = np.random.default_rng(seed)
    results = []
    for _ in range(images):
        count = random.integers(0, 9)
        corner = random.uniform(0, 0.6, (count, 2))
        truth = np.concatenate([corner, corner + random.uniform(0.05, 0.4, (count, 2))], axis=1)
        of_class = random.integers(1, classes + 1, count)
        copies = random.integers(0, 4, count)
        boxes = np.repeat(truth, copies, axis=0)
        boxes = boxes + random.normal(0, 0.03, boxes.shape)
        boxes = np.sort(boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        kinds = np.repeat(of_class, copies)
        other = random.random(len(kinds)) < 0.15
        kinds = np.where(other, random.integers(1, classes + 1, len(kinds)), kinds)
        scores = random.uniform(0.01, 1, len(kinds))
        if ties:
            scores = np.round(scores, 1)
        order = np.argsort(-scores, kind="stable")
        results.append(
            ImageResult(
                name=f"{len(results)}",
                size=(480, 640),
                boxes=boxes[order].astype(np.float32),
                scores=scores[order].astype(np.float32),
                classes=kinds[order].astype(np.int32),
                truth_boxes=truth.astype(np.float32),
                truth_classes=of_class.astype(np.int32),
                truth_difficult=random.random(count) < difficult,
            )
        )
    return results


def devkit_ap(results, index, threshold, mode):
    """The loop of the PASCAL VOC development kit, one class, in plain Python."""
    objects = []
    for result in results:
        rows = [i for i, c in enumerate(result.truth_classes) if c == index]
        objects.append([[result.truth_boxes[i].tolist(), bool(result.truth_difficult[i]), False] for i in rows])
    total = sum(not difficult for rows in objects for _, difficult, _ in rows)
    if not total:
        return None
    detections = [
        (float(result.scores[i]), at, result.boxes[i].tolist())
        for at, result in enumerate(results)
        for i in range(len(result.scores))
        if result.classes[i] == index
    ]
    detections.sort(key=lambda row: -row[0])
    precisions, recalls, true, false = [], [], 0, 0
    for _, at, box in detections:
        best, which = -1.0, None
        for row in objects[at]:
            other = row[0]
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            if width <= 0 or height <= 0:
                continue
            shared = width * height
            union = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
            if shared / union > best:
                best, which = shared / union, row
        if best >= threshold:
            if which[1]:
                continue
            if which[2]:
                false += 1
            else:
                which[2] = True
                true += 1
        else:
            false += 1
        precisions.append(true / (true + false))
        recalls.append(true / total)
    if mode == "SAMPLE":
        points = [step / 10 for step in range(11)]
        return (
            sum(max([p for p, r in zip(precisions, recalls, strict=True) if r >= t - 1e-12], default=0) for t in points)
            / 11
        )
    area, last = 0.0, 0.0
    for at, recall in enumerate(recalls):
        area += (recall - last) * max(precisions[at:])
        last = recall
    return area


@pytest.mark.parametrize(("mode", "expected"), [("SAMPLE", 6 / 11), ("INTEGRATE", 5 / 9)])
def test_three_detections_of_three_objects(mode, expected):
    box = (0.1, 0.1, 0.3, 0.3)
    far = (0.6, 0.6, 0.8, 0.8)
    results = [
        image([(1, 0.9, box)], [(1, box)]),
        image([(1, 0.8, far)], [(1, box)]),
        image([(1, 0.7, box)], [(1, box)]),
    ]
    report = voc_report(results, ("car",), 0.5, mode)
    assert report.mean == pytest.approx(expected, abs=1e-12)
    assert report.classes[0].ap == report.mean


@pytest.mark.parametrize("mode", ["SAMPLE", "INTEGRATE"])
@pytest.mark.parametrize("difficult", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_development_kits_loop(seed, difficult, mode):
    results = random_results(seed, difficult=difficult, ties=seed % 2 == 1)
    for threshold in (0.3, 0.5, 0.75):
        report = voc_report(results, ("a", "b", "c"), threshold, mode)
        for index, row in enumerate(report.classes, start=1):
            assert row.ap == pytest.approx(devkit_ap(results, index, threshold, mode), abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_equals_mapcalc(seed):
    """`mapcalc` takes one image, sorted detections and boxes that include their last pixel."""
    from mapcalc import calculate_map

    results = random_results(100 + seed, images=25)
    truth, found = {"boxes": [], "labels": []}, {"boxes": [], "labels": [], "scores": []}
    rows = []
    for at, result in enumerate(results):
        # Images side by side, far apart; the last pixel taken off again.
        shift = np.array([at * 10_000.0, 0, at * 10_000.0, 0])
        grow = np.array([1000.0, 1000, 1000, 1000])
        last = np.array([0.0, 0, 1, 1])
        truth["boxes"] += (result.truth_boxes.astype(np.float64) * grow + shift - last).tolist()
        truth["labels"] += result.truth_classes.tolist()
        boxes = (result.boxes.astype(np.float64) * grow + shift - last).tolist()
        rows += zip(result.scores.tolist(), result.classes.tolist(), boxes, strict=True)
    for score, index, box in sorted(rows, key=lambda row: -row[0]):
        found["scores"].append(score)
        found["labels"].append(index)
        found["boxes"].append(box)
    for threshold in (0.5, 0.7):
        expected = calculate_map(truth, found, threshold)
        assert voc_report(results, ("a", "b", "c"), threshold, "INTEGRATE").mean == pytest.approx(expected, abs=1e-9)


def test_a_second_detection_of_a_found_object_is_false_even_beside_a_free_one():
    left, right = (0.1, 0.1, 0.5, 0.5), (0.2, 0.1, 0.6, 0.5)  # IoU 0.6
    results = [image([(1, 0.9, left), (1, 0.8, (0.12, 0.1, 0.52, 0.5))], [(1, left), (1, right)])]
    best = match_voc(results, 0.5)
    assert best.true.tolist() == [True, False]
    assert best.found_score.tolist() == [pytest.approx(0.9), -np.inf]


def test_an_overlap_of_exactly_the_threshold_counts():
    results = [image([(1, 0.9, (0, 0, 0.5, 0.5))], [(1, (0, 0, 0.5, 1))])]
    assert voc_report(results, ("a",), 0.5, "SAMPLE").mean == 1.0


def test_difficult_objects_are_neither_missed_nor_false_however_often_detected():
    easy, hard = (0.1, 0.1, 0.3, 0.3), (0.6, 0.6, 0.9, 0.9)
    results = [image([(1, 0.9, hard), (1, 0.8, hard), (1, 0.7, easy)], [(1, easy), (1, hard, True)])]
    row = voc_report(results, ("a",), 0.5, "INTEGRATE").classes[0]
    assert (row.ap, row.objects, row.difficult, row.detections) == (1.0, 1, 1, 1)


def test_absent_classes_have_no_ap_and_stay_out_of_the_mean():
    box = (0.1, 0.1, 0.3, 0.3)
    results = [image([(1, 0.9, box), (2, 0.8, box), (3, 0.7, box)], [(1, box), (3, box, True)])]
    report = voc_report(results, ("here", "absent", "difficult only"), 0.5, "SAMPLE")
    assert [row.ap for row in report.classes] == [1.0, None, None]
    assert report.mean == 1.0
    assert report.classes[1].detections == 1
    assert report.classes[2].detections == 0


@pytest.mark.parametrize("results", [[], [image()], [image([(1, 0.5, (0, 0, 1, 1))])]])
def test_nothing_to_find_has_no_mean(results):
    report = voc_report(results, ("a", "b"), 0.5, "SAMPLE")
    assert report.mean is None
    assert all(row.ap is None and row.best is None for row in report.classes)


def test_nothing_found_is_zero():
    report = voc_report([image([], [(1, (0, 0, 1, 1))])], ("a",), 0.5, "INTEGRATE")
    assert report.mean == 0.0
    assert (report.classes[0].best.missed, report.classes[0].best.f1) == (1, 0.0)


def test_recall_of_three_tenths_reaches_the_point_at_three_tenths():
    true = np.array([True] * 3)
    assert average_precision(true, 10, "SAMPLE") == pytest.approx(4 / 11)  # points 0, .1, .2, .3


def test_equal_scores_keep_their_order():
    box, far = (0.1, 0.1, 0.3, 0.3), (0.6, 0.6, 0.8, 0.8)
    right = image([(1, 0.5, box)], [(1, box)])
    wrong = image([(1, 0.5, far)], [])
    assert voc_report([right, wrong], ("a",), 0.5, "INTEGRATE").mean == 1.0
    assert voc_report([wrong, right], ("a",), 0.5, "INTEGRATE").mean == 0.5


def test_the_best_point_does_not_part_equal_scores():
    box, far = (0.1, 0.1, 0.3, 0.3), (0.6, 0.6, 0.8, 0.8)
    results = [
        image([(1, 0.9, box)], [(1, box)]),
        image([(1, 0.5, box)], [(1, box)]),
        image([(1, 0.5, far)], []),
        image([(1, 0.5, far)], []),
    ]
    best = voc_report(results, ("a",), 0.5, "SAMPLE").classes[0].best
    assert best.threshold == pytest.approx(0.9)
    assert (best.true_positives, best.false_positives, best.missed) == (1, 0, 1)
    assert best.f1 == pytest.approx(2 / 3)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="MEAN"):
        voc_report([], ("a",), 0.5, "MEAN")


@given(true=st.lists(st.booleans(), max_size=40), missed=st.integers(0, 20))
def test_the_area_is_that_under_the_falling_curve(true, missed):
    objects = sum(true) + missed
    if not objects:
        return
    found = np.cumsum(true)
    area = sum(
        max(found[j] / (j + 1) for j in range(i, len(true))) / objects for i, is_true in enumerate(true) if is_true
    )
    assert average_precision(np.array(true, bool), objects, "INTEGRATE") == pytest.approx(area)


def test_iou_of_boxes_without_area_is_zero():
    flat = np.array([[0.1, 0.1, 0.1, 0.5], [0, 0, 0, 0]])
    assert iou_table(flat, flat).tolist() == [[0, 0], [0, 0]]


def test_five_thousand_images_take_seconds():
    random = np.random.default_rng(0)
    corner = random.uniform(0, 0.8, (5000, 100, 2)).astype(np.float32)
    boxes = np.concatenate([corner, corner + 0.2], axis=-1)
    scores = -np.sort(-random.random((5000, 100), np.float32), axis=1)
    classes = random.integers(1, 21, (5000, 100)).astype(np.int32)
    results = [
        ImageResult("", (9, 9), boxes[i], scores[i], classes[i], boxes[i, :10], classes[i, :10], np.zeros(10, bool))
        for i in range(5000)
    ]
    start = time.perf_counter()
    report = voc_report(results, tuple(f"c{i}" for i in range(20)), 0.5, "INTEGRATE")
    assert time.perf_counter() - start < 10
    assert sum(row.detections for row in report.classes) == 500_000
