"""Norms, their merging and the choice of filters, by hand and by the original toolkit's check vectors."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ssd.pruning.importance import CRITERIA, filter_norms, merged, normalized, selected


def test_norms_are_taken_over_all_axes_but_the_filters():
    images = keras.Input((6, 6, 5))
    layers = {
        "conv": (keras.layers.Conv2D(4, 3), 3),
        "transposed": (keras.layers.Conv2DTranspose(4, 2), 2),
        "depthwise": (keras.layers.DepthwiseConv2D(3), 2),
    }
    for layer, axis in layers.values():
        layer(images)
        kernel = np.random.default_rng(0).normal(size=layer.get_weights()[0].shape)
        layer.set_weights([kernel, *layer.get_weights()[1:]])
        expected = [np.linalg.norm(np.take(kernel.astype("float32"), i, axis)) for i in range(kernel.shape[axis])]
        np.testing.assert_allclose(filter_norms(layer), expected, rtol=1e-6)


def test_normalizers_by_hand():
    np.testing.assert_allclose(normalized(np.array([3.0, 4.0, 0.0]), "max"), [0.75, 1, 0])
    # Divided by the length 5, times 3 entries.
    np.testing.assert_allclose(normalized(np.array([3.0, 4.0, 0.0]), "L2"), [1.8, 2.4, 0])
    for kind in ("max", "L2"):
        np.testing.assert_array_equal(normalized(np.zeros(3), kind), np.zeros(3))


def test_criteria_by_hand():
    norms = [np.array([1.0, 0.5, 0.0]), np.array([0.25, 0.5, 1.0])]
    expected = {
        "union": [1, 0.5, 1],
        "intersection": [0.25, 0.5, 0],
        "arithmetic_mean": [0.625, 0.5, 0.5],
        "geometric_mean": [0.5, 0.5, 0],
    }
    assert set(expected) == set(CRITERIA)
    for criterion, values in expected.items():
        np.testing.assert_allclose(merged(norms, criterion), values)


@pytest.mark.parametrize(("above", "kept"), [(19, 24), (3, 16), (0, 16), (64, 64), (57, 64), (17, 24), (16, 16)])
def test_the_original_toolkits_counts(above, kept):
    norms = np.where(np.arange(64) < above, 0.5, 0.05)[::-1]
    found = selected(norms, 0.1, granularity=8, minimum=16)
    assert found.sum() == kept
    assert found[norms > 0.1].all()


norms_of = arrays.arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1))


@given(norms=norms_of, threshold=st.floats(0, 0.99), granularity=st.integers(1, 9), minimum=st.integers(0, 20))
def test_what_stays_is_the_largest_in_a_multiple_and_never_too_few(norms, threshold, granularity, minimum):
    kept = selected(norms, threshold, granularity, minimum)
    count = int(kept.sum())
    assert count % granularity == 0 or count == len(norms)
    assert count >= min(minimum, len(norms))
    assert kept[norms > threshold].all()
    if 0 < count < len(norms):
        assert norms[kept].min() >= norms[~kept].max()
    # No more than the rule asks for.
    wanted = max(int((norms > threshold).sum()), min(minimum, len(norms)))
    assert count < wanted + granularity


def test_a_norm_at_the_threshold_goes_and_among_equals_the_first_stay():
    np.testing.assert_array_equal(selected(np.array([0.1, 0.2]), 0.1, 1, 0), [False, True])
    np.testing.assert_array_equal(selected(np.array([0.1, 0.1, 0.1]), 0.1, 1, 2), [True, True, False])
