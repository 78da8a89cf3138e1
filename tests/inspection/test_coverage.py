"""Best IoUs against every anchor compared with every box."""

import numpy as np
import pytest

from ssd.inspection.anchor_report import cover, grid_limit
from ssd.inspection.coverage import anchor_shapes, best_ious
from ssd.models.detector import anchors_of

SIZE = (96, 160)
MAPS = ((12, 20), (6, 10), (3, 5), (2, 3), (1, 2), (1, 1))


def some_boxes(number: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    sizes = np.exp(rng.normal(-1.8, 0.9, (number, 2))).clip(0.005, 1.0)
    corners = rng.uniform(0, 1, (number, 2)) * (1 - sizes)
    return np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)


def brute_force(boxes, anchors):
    """float64 `(T, A)`."""
    boxes, anchors = boxes.astype(np.float64)[:, None], anchors.astype(np.float64)[None]
    width = np.minimum(boxes[..., 2], anchors[..., 2]) - np.maximum(boxes[..., 0], anchors[..., 0])
    height = np.minimum(boxes[..., 3], anchors[..., 3]) - np.maximum(boxes[..., 1], anchors[..., 1])
    shared = np.where((width > 0) & (height > 0), width * height, 0.0)
    areas = [(each[..., 2] - each[..., 0]) * (each[..., 3] - each[..., 1]) for each in (boxes, anchors)]
    return shared / (areas[0] + areas[1] - shared)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip_boxes": True},
        {"two_boxes_for_ar1": False, "scales": (0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.4)},
        {"aspect_ratios": ((1.0,), (2.0, 0.5), (1.0, 3.0), (1.0,), (0.4,), (1.0, 2.0)), "clip_boxes": True},
        {
            "steps": ((8, 8), (16, 16), (30, 33), (48, 50), (90, 80), (90, 150)),
            "offsets": ((0.5, 0.5), (0.4, 0.6), (0.5, 0.5), (0.5, 0.5), (0.5, 0.2), (0.5, 0.5)),
        },
    ],
    ids=["plain", "clipped", "one square", "lists per map, clipped", "steps and offsets"],
)
def test_the_best_of_every_kind_is_the_best_of_all_its_anchors(network, changes):
    config, boxes = network(**changes), some_boxes(300)
    anchors = anchors_of(config, SIZE, MAPS)
    wanted, columns, first = brute_force(boxes, anchors), [], 0
    for (rows, cells), kinds in zip(MAPS, config.boxes_per_cell, strict=True):
        for kind in range(kinds):
            columns.append(wanted[:, first + kind : first + rows * cells * kinds : kinds].max(axis=1))
        first += rows * cells * kinds
    found = best_ious(boxes, anchors, MAPS, config.boxes_per_cell)
    np.testing.assert_allclose(found, np.stack(columns, axis=1), atol=2e-6)
    np.testing.assert_allclose(found.max(axis=1), wanted.max(axis=1), atol=2e-6)


def test_the_kinds_have_the_sizes_of_their_anchors(network):
    config = network(two_boxes_for_ar1=True)
    anchors, first = anchors_of(config, SIZE, MAPS), 0
    shapes = anchor_shapes(config, SIZE)
    for index, ((rows, cells), kinds) in enumerate(zip(MAPS, config.boxes_per_cell, strict=True)):
        corners = anchors[first : first + kinds] * np.tile(SIZE[::-1], 2)
        sizes = [(shape.width, shape.height) for shape in shapes if shape.map == index]
        np.testing.assert_allclose(corners[:, 2:] - corners[:, :2], sizes, rtol=1e-4)
        first += rows * cells * kinds
    assert [shape.name for shape in shapes[:3]] == ["1", "1+", "2"]


def test_a_kind_is_used_by_the_box_it_fits_and_counts_on_its_map(network):
    config = network(aspect_ratios=((1.0, 2.0),) * 6, scales=(0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0))
    anchors = anchors_of(config, SIZE, MAPS)
    second_map = MAPS[0][0] * MAPS[0][1] * 3
    coverage = cover(config, SIZE, MAPS, anchors[second_map + 2 : second_map + 3])  # its ratio 2, cell (0, 0)
    assert coverage.best[0] == pytest.approx(1.0, abs=1e-5)
    used = [(shape.map, shape.name) for shape, used in zip(coverage.shapes, coverage.used, strict=True) if used]
    assert (1, "2") in used
    assert (5, "1") not in used
    assert coverage.by_map(6)[1] == (1, 1)


def test_no_boxes_are_covered_without_a_word(network):
    coverage = cover(network(), SIZE, MAPS, np.zeros((0, 4), np.float32))
    assert coverage.best.shape == (0,)
    assert not coverage.used.any()
    assert coverage.by_map(6) == [(0, 0)] * 6


def test_the_limit_is_an_anchor_of_the_boxs_size_in_every_cell(network):
    boxes = some_boxes(50)
    wanted = np.zeros(len(boxes))
    for number, box in enumerate(boxes.astype(np.float64)):
        half = (box[2:] - box[:2]) / 2
        for rows, cells in MAPS:
            x, y = np.meshgrid((np.arange(cells) + 0.5) / cells, (np.arange(rows) + 0.5) / rows)
            centers = np.stack([x.ravel(), y.ravel()], axis=1)
            own = np.concatenate([centers - half, centers + half], axis=1)
            wanted[number] = max(wanted[number], brute_force(box[None], own).max())
    np.testing.assert_allclose(grid_limit(network(), SIZE, MAPS, boxes), wanted, atol=1e-6)
