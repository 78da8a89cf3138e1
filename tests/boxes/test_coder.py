"""The codec: check vector, round trip, and boxes or outputs that would give infinities."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from ssd.boxes.coder import decode, encode, to_centers, to_corners

VARIANCES = (0.1, 0.1, 0.2, 0.2)

place = st.floats(-0.5, 1.5, width=32)
size = st.floats(2.0**-10, 2.0, width=32)
centers = st.tuples(place, place, size, size)  # in lists of five: JAX compiles anew for every shape


def array(function, *arguments):
    tensors = [ops.convert_to_tensor(np.asarray(a, np.float32)) for a in arguments]
    return ops.convert_to_numpy(function(*tensors))


def test_check_vector():
    box = array(to_corners, [[0.52, 0.48, 0.3, 0.1]])
    offsets = array(lambda b, a: encode(b, a, VARIANCES), box, [[0.5, 0.5, 0.2, 0.2]])
    np.testing.assert_allclose(offsets, [[1.0, -1.0, 2.02733, -3.46574]], atol=2e-5)


@given(pairs=st.lists(st.tuples(centers, centers), min_size=5, max_size=5))
def test_decode_undoes_encode(pairs):
    boxes, anchors = np.array(pairs, np.float32).transpose(1, 0, 2)
    corners = array(to_corners, boxes)
    offsets = array(lambda b, a: encode(b, a, VARIANCES), corners, anchors)
    again = array(lambda o, a: decode(o, a, VARIANCES), offsets, anchors)
    np.testing.assert_allclose(again, corners, atol=2e-5, rtol=2e-5)


@given(rows=st.lists(centers, min_size=5, max_size=5))
def test_corners_and_centers_undo_each_other(rows):
    np.testing.assert_allclose(array(lambda b: to_centers(to_corners(b)), rows), np.array(rows), atol=1e-6)


def test_batches_share_the_anchors():
    rng = np.random.default_rng(0)
    anchors = np.concatenate([rng.random((5, 2)), rng.uniform(0.1, 0.5, (5, 2))], -1).astype(np.float32)
    offsets = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    boxes = array(lambda o, a: decode(o, a, VARIANCES), offsets, anchors)
    assert boxes.shape == (2, 3, 5, 4)
    x, y = (offsets[..., i] * 0.1 * anchors[:, 2 + i] + anchors[:, i] for i in range(2))
    w, h = (np.exp(offsets[..., 2 + i] * 0.2) * anchors[:, 2 + i] for i in range(2))
    np.testing.assert_allclose(boxes, np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1), atol=1e-5)


def test_boxes_and_anchors_without_size_encode_to_finite_offsets():
    boxes = [[0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0], [0.1, 0.1, 0.2, 0.2]]
    anchors = [[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.0, -0.1]]
    assert np.isfinite(array(lambda b, a: encode(b, a, VARIANCES), boxes, anchors)).all()


def test_wild_offsets_decode_to_finite_boxes():
    offsets = [[1e6, -1e6, 1e6, 1e6], [0, 0, -1e6, -1e6], [3e4, 0, 90, 5e2]]
    boxes = array(lambda o, a: decode(o, a, VARIANCES), offsets, [[0.5, 0.5, 1.0, 1.0]] * 3)
    assert np.isfinite(boxes).all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
