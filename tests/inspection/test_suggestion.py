"""What is suggested keeps its promise: as many anchors, valid spec text, the recall that was printed."""

import dataclasses
import re

import numpy as np
import pytest

from ssd.inspection import anchor_report
from ssd.inspection.anchor_text import anchor_text
from ssd.inspection.suggestion import FEWEST_BOXES, _Search, kmeans_iou, suggest, zoomed_out
from ssd.models.detector import anchors_of
from ssd.spec import experiment_from_text

SIZE = (128, 160)
MAPS = ((16, 20), (8, 10), (4, 5), (2, 3), (1, 2), (1, 1))


@pytest.fixture(scope="module")
def boxes():
    """Tall boxes of 12 to 20 px, and few wide ones of 60: `(T, 4)`, `(T,)`."""
    rng = np.random.default_rng(0)
    sizes = np.concatenate([rng.normal((10, 18), 1.5, (150, 2)), rng.normal((70, 50), 6, (40, 2))])
    corners = rng.uniform(0, 1, (190, 2)) * (np.array(SIZE[::-1]) - sizes)
    flat = np.concatenate([corners, corners + sizes], axis=1) / np.tile(SIZE[::-1], 2)
    return flat.astype(np.float32), np.repeat([1, 2], [150, 40])


@pytest.fixture(scope="module")
def found(boxes, network):
    present = network(scales=(0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0))
    return present, suggest(present, SIZE, MAPS, *boxes)


def class_mean(network, boxes, classes):
    coverage = anchor_report.cover(network, SIZE, MAPS, boxes)
    return anchor_report.class_mean(coverage, classes)


def test_the_suggestion_is_better_costs_the_same_and_comes_again(found, boxes):
    present, suggested = found
    assert suggested.boxes_per_cell == present.boxes_per_cell
    assert dataclasses.replace(suggested, scales=present.scales, aspect_ratios=present.aspect_ratios) == present
    before, after = (class_mean(network, *boxes) for network in (present, suggested))
    assert after[0] > before[0] + 0.05
    assert after[1] > before[1] + 0.05
    assert suggest(present, SIZE, MAPS, *boxes) == suggested


def test_scales_rise_and_stay_where_a_cell_sees_the_object(found):
    _, suggested = found
    assert list(suggested.scales) == sorted(suggested.scales)
    assert max(suggested.scales) <= 1.0
    assert suggested.scales[0] * min(SIZE) <= 6 * 8 + 0.1


@pytest.mark.parametrize("clipped", [False, True])
def test_the_search_scores_what_the_real_anchors_give(found, boxes, clipped):
    flat, classes = boxes
    inside = (flat.min(axis=1) > 0.25) & (flat.max(axis=1) < 0.75)  # where clipping changes nothing
    flat, classes = flat[inside], classes[inside]
    for network in found:
        network = dataclasses.replace(network, clip_boxes=clipped)
        score = _Search(network, SIZE, MAPS, flat, classes, 1.0).score(network)
        best = anchor_report.cover(network, SIZE, MAPS, flat).best
        parts = [best[classes == index] for index in np.unique(classes)]
        wanted = np.mean([((part >= network.pos_iou_thresh).mean() + part.mean()) / 2 for part in parts])
        assert score == pytest.approx(wanted, abs=0.02 if clipped else 1e-5)


def test_the_printed_text_pasted_into_the_spec_gives_the_promised_recall(found, boxes, make_index, spec_text, tmp_path):
    present, suggested = found
    text = spec_text(tmp_path, tmp_path)
    lines = anchor_report.spec_text(suggested)
    for line in lines.split("\n"):
        field = line.split(":")[0]
        text = re.sub(rf"{field}: .*", lambda _, line=line: line, text, count=1)
    spec = experiment_from_text(text, "spec", "inference")
    assert spec.network.scales == suggested.scales
    assert spec.network.aspect_ratios == suggested.aspect_ratios
    network = dataclasses.replace(spec.network, pos_iou_thresh=present.pos_iou_thresh)
    flat, classes = boxes
    pixels = flat * np.tile(SIZE[::-1], 2)
    index = make_index(
        [[(label, tuple(box))] for label, box in zip(classes.tolist(), pixels.tolist(), strict=True)], SIZE
    )
    report = anchor_report.inspect_anchors(present, SIZE, MAPS, ("a", "b"), index, None)
    promised = anchor_report.numbers(report)["all"]["suggested"]["recall_50"]
    again = anchor_report.cover(network, SIZE, MAPS, index.boxes)
    assert (again.best >= 0.5).mean() == pytest.approx(promised, abs=1e-9)
    assert f"-> {class_mean(network, index.boxes, classes)[0]:.3f}" in anchor_text(report, "x.csv")


def test_lists_per_map_keep_their_lengths_and_print_as_such(boxes, network):
    ratios = ((1.0,), (1.0, 2.0), (1.0, 0.5), (1.0, 3.0), (2.0,), (1.0,))
    present = network(aspect_ratios=ratios, scales=(0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0))
    suggested = suggest(present, SIZE, MAPS, *boxes)
    assert suggested.boxes_per_cell == present.boxes_per_cell
    assert 'aspect_ratios: "[[1.0], [1.0, ' in anchor_report.spec_text(suggested)


def test_good_anchors_and_few_boxes_get_no_suggestion(network, boxes):
    present = network(aspect_ratios=((1.0, 1.7, 0.6),) * 6, scales=(0.12, 0.25, 0.45, 0.6, 0.75, 0.9, 1.0))
    anchors = anchors_of(present, SIZE, MAPS)
    inside = anchors[(anchors.min(axis=1) >= 0) & (anchors.max(axis=1) <= 1)]
    assert suggest(present, SIZE, MAPS, inside[:1600:16], np.ones(100, int)) is None
    flat, classes = boxes
    assert suggest(present, SIZE, MAPS, flat[: FEWEST_BOXES - 1], classes[: FEWEST_BOXES - 1]) is None


def test_one_size_of_boxes_is_no_trouble(network):
    flat = np.tile(np.float32([0.4, 0.4, 0.5, 0.5]), (50, 1))
    suggested = suggest(network(), SIZE, MAPS, flat, np.ones(50, int), 2.0)
    assert suggested is None or list(suggested.scales) == sorted(suggested.scales)


def test_kmeans_finds_the_clusters_there_are():
    rng = np.random.default_rng(1)
    centers = np.array([(10, 20), (40, 30), (90, 100)], float)
    sizes = np.concatenate([rng.normal(center, 1.0, (60, 2)) for center in centers])
    np.testing.assert_allclose(kmeans_iou(sizes, np.ones(180), 3), centers, rtol=0.05)


def test_zooming_out_puts_the_picture_in_the_middle():
    np.testing.assert_allclose(zoomed_out(np.float32([[0, 0, 1, 0.5]]), 2.0), [[0.25, 0.25, 0.75, 0.5]])


def test_no_class_pays_for_another_or_for_zooming_out(boxes, network):
    flat, classes = boxes
    present = network(scales=(0.1, 0.13, 0.5, 0.6, 0.8, 0.9, 1.0), aspect_ratios=((1.0, 0.55, 0.6),) * 6)
    suggested = suggest(present, SIZE, MAPS, flat, classes, zoom=3.0)
    before, after = (anchor_report.cover(each, SIZE, MAPS, flat).best for each in (present, suggested))
    for index in np.unique(classes):
        assert after[classes == index].mean() > before[classes == index].mean() - 0.005
