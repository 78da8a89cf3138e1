"""Anchors against the check vectors and against a plain loop."""

import math

import numpy as np
import pytest

from ssd.boxes.anchors import make_anchors

MAPS_300 = [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (2, 2)]
SCALES = [0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85]
RATIOS = [1.0, 2.0, 0.5, 3.0, 1.0 / 3.0]


def guide_anchors(**changes):
    settings = dict(
        image_size=(300, 300),
        feature_maps=MAPS_300,
        scales=SCALES,
        aspect_ratios=[RATIOS] * 6,
        two_boxes_for_ar1=True,
        steps=None,
        offsets=None,
        clip=False,
    )
    return make_anchors(**(settings | changes))


def pixels(anchors, width=300, height=300):
    return anchors.astype(np.float64) * [width, height, width, height]


def loop_anchors(image_size, maps, scales, ratios, two_boxes, steps, offsets, clip):
    """The definition, one box at a time."""
    height, width = image_size
    boxes = []
    for k, (rows, columns) in enumerate(maps):
        size = min(height, width)
        step_h, step_w = steps[k] if steps else (height / rows, width / columns)
        off_h, off_w = offsets[k] if offsets else (0.5, 0.5)
        for i in range(rows):
            for j in range(columns):
                cy, cx = (off_h + i) * step_h, (off_w + j) * step_w
                shapes = []
                for a in ratios[k]:
                    if a == 1:
                        shapes.append((scales[k] * size, scales[k] * size))
                        if two_boxes:
                            shapes.append((math.sqrt(scales[k] * scales[k + 1]) * size,) * 2)
                    else:
                        shapes.append((scales[k] * size * math.sqrt(a), scales[k] * size / math.sqrt(a)))
                for w, h in shapes:
                    box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                    if clip:
                        for side, limit in enumerate((width, height, width, height)):
                            if box[side] >= limit:
                                box[side] = limit - 1
                            elif box[side] < 0:
                                box[side] = 0
                    boxes.append([box[0] / width, box[1] / height, box[2] / width, box[3] / height])
    return np.array(boxes)


def test_check_vectors_of_the_guide_sample():
    anchors = guide_anchors()
    assert anchors.shape == (11658, 4)
    assert anchors.dtype == np.float32
    first = pixels(anchors[:6])
    np.testing.assert_allclose((first[:, :2] + first[:, 2:]) / 2, 3.947, atol=5e-4)
    sizes = [
        (15, 15),
        (21.213, 21.213),
        (21.213, 10.607),
        (10.607, 21.213),
        (25.981, 8.660),
        (8.660, 25.981),
    ]
    np.testing.assert_allclose(first[:, 2:] - first[:, :2], sizes, atol=5e-4)


def test_order_is_map_then_row_then_column_then_box():
    anchors = pixels(guide_anchors())
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    step = 300 / 38
    np.testing.assert_allclose(centers[6], [1.5 * step, 0.5 * step], rtol=1e-5)
    np.testing.assert_allclose(centers[38 * 6], [0.5 * step, 1.5 * step], rtol=1e-5)
    np.testing.assert_allclose(centers[38 * 38 * 6], [300 / 38] * 2, rtol=1e-5)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("two_boxes", [False, True])
@pytest.mark.parametrize("grid", [False, True])
def test_equals_the_plain_loop(clip, two_boxes, grid):
    image_size = (192, 320)
    maps = [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]
    ratios = [[1.0, 2.0], [2.0, 1.0, 0.5], [3.0], [0.3, 1.0], [1.0], [1.5, 1.0 / 3.0]]
    steps = [(8.0, 9.0), (16.0, 15.0), (30.0, 33.0), (64.0, 66.0), (96.0, 110.0), (192.0, 150.0)] if grid else None
    offsets = [(0.5, 0.25), (0.0, 1.0), (0.5, 0.5), (0.4, 0.6), (0.5, 0.0), (0.7, 0.5)] if grid else None
    anchors = make_anchors(
        image_size=image_size,
        feature_maps=maps,
        scales=[*SCALES[:6], 1.2],
        aspect_ratios=ratios,
        two_boxes_for_ar1=two_boxes,
        steps=steps,
        offsets=offsets,
        clip=clip,
    )
    expected = loop_anchors(image_size, maps, [*SCALES[:6], 1.2], ratios, two_boxes, steps, offsets, clip)
    np.testing.assert_allclose(anchors, expected, rtol=1e-6, atol=1e-7)


def test_clipping_keeps_what_lies_beyond_the_last_pixel():
    ratios = [[1.0]] + [[1.0]] * 5
    # Cell 0 of a 1-cell map centred in 100 pixels: half of 99.5 reaches to 99.75, between 99 and 100.
    maps = [(1, 1)] * 6
    scales = [0.995, 1.0, 1.2, 0.5, 0.5, 0.5, 0.5]
    clipped = pixels(
        make_anchors(
            image_size=(100, 100),
            feature_maps=maps,
            scales=scales,
            aspect_ratios=ratios,
            two_boxes_for_ar1=False,
            steps=None,
            offsets=None,
            clip=True,
        ),
        100,
        100,
    )
    np.testing.assert_allclose(clipped[0], [0.25, 0.25, 99.75, 99.75], atol=1e-5)
    np.testing.assert_allclose(clipped[1], [0, 0, 99, 99], atol=1e-5)  # exactly at the border counts as outside
    np.testing.assert_allclose(clipped[2], [0, 0, 99, 99], atol=1e-5)


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="7 scales"):
        guide_anchors(scales=SCALES[:6])
    with pytest.raises(ValueError, match="aspect ratio"):
        guide_anchors(aspect_ratios=[[1.0, 2.0, 1.0]] * 6)
    with pytest.raises(ValueError, match="6 steps"):
        guide_anchors(steps=[(8.0, 8.0)])
