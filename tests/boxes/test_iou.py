"""IoU: against a float64 loop, and what must hold for any boxes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from ssd.boxes.iou import iou

corner = st.floats(-0.5, 1.5, width=32)
size = st.one_of(st.just(0.0), st.floats(2.0**-13, 1.0, width=32))
box = st.tuples(corner, corner, size, size).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
# Always five: JAX compiles anew for every shape.
boxes = st.lists(box, min_size=5, max_size=5).map(lambda rows: np.array(rows, np.float32))


def plain_iou(first, second):
    table = np.zeros((len(first), len(second)))
    for i, a in enumerate(first.astype(np.float64)):
        for j, b in enumerate(second.astype(np.float64)):
            width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
            table[i, j] = width * height / union if union > 1e-12 else 0.0
    return table


def numpy_iou(first, second):
    return ops.convert_to_numpy(iou(ops.convert_to_tensor(first), ops.convert_to_tensor(second)))


@given(first=boxes, second=boxes)
def test_equals_the_plain_loop_and_is_symmetric(first, second):
    table = numpy_iou(first, second)
    # Sizes are differences of float32 corners: an edge of 1e-4 is known to 1e-3 of itself.
    np.testing.assert_allclose(table, plain_iou(first, second), rtol=5e-3, atol=1e-6)
    np.testing.assert_array_equal(table, numpy_iou(second, first).T)
    assert np.all((table >= 0) & (table <= 1 + 5e-3))


def test_known_values():
    first = np.array([[0, 0, 0.5, 0.5]], np.float32)
    second = np.array(
        [
            [0, 0, 0.5, 0.5],
            [0.25, 0, 0.75, 0.5],
            [0.5, 0, 1, 0.5],  # touches
            [0.2, 0.2, 0.2, 0.4],  # no width
            [0.6, 0.6, 0.7, 0.7],  # apart in both directions
        ],
        np.float32,
    )
    np.testing.assert_allclose(numpy_iou(first, second), [[1, 1 / 3, 0, 0, 0]], rtol=1e-6)


def test_two_boxes_without_area_do_not_overlap():
    point = np.array([[0.3, 0.3, 0.3, 0.3]], np.float32)
    assert numpy_iou(point, point) == 0


def test_leading_axes_broadcast():
    rng = np.random.default_rng(1)
    first = np.sort(rng.random((3, 5, 2, 2)), axis=2).reshape(3, 5, 4).astype(np.float32)
    second = np.sort(rng.random((7, 2, 2)), axis=1).reshape(7, 4).astype(np.float32)
    table = numpy_iou(first, second)
    assert table.shape == (3, 5, 7)
    for image in range(3):
        np.testing.assert_allclose(table[image], plain_iou(first[image], second), rtol=1e-4, atol=1e-6)
