"""Batch normalisation against numpy: the first batch sets the statistics, later ones move them."""

import numpy as np
import pytest

from ssd.models.batch_norm import BatchNormalization


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_statistics_begin_with_the_first_batch_and_then_move_by_the_momentum(policy):
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, 0.02, (4, 5, 6, 7)).astype("float32") for _ in range(3)]
    layer = BatchNormalization(momentum=0.999, epsilon=1e-3, dtype=policy)
    mean = variance = None
    for batch in batches:
        layer(batch, training=True)
        seen = batch.astype("float64").mean((0, 1, 2)), batch.astype("float64").var((0, 1, 2))
        first = mean is None
        mean = seen[0] if first else 0.999 * mean + 0.001 * seen[0]
        variance = seen[1] if first else 0.999 * variance + 0.001 * seen[1]
        np.testing.assert_allclose(np.asarray(layer.moving_mean), mean, rtol=1e-2 if policy != "float32" else 1e-5)
        np.testing.assert_allclose(np.asarray(layer.moving_variance), variance, rtol=1 if policy != "float32" else 1e-3)


def test_statistics_that_came_from_a_file_only_move():
    layer = BatchNormalization(momentum=0.9, epsilon=1e-3)
    layer.build((None, 4, 4, 2))
    layer.set_weights([np.ones(2), np.zeros(2), np.zeros(2), np.full(2, 0.999)])  # a neutral one
    layer(np.full((1, 4, 4, 2), 5, "float32"), training=True)
    np.testing.assert_allclose(np.asarray(layer.moving_mean), 0.5, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(layer.moving_variance), 0.9 * 0.999, rtol=1e-5)


def test_what_is_frozen_or_evaluated_does_not_move():
    layer = BatchNormalization()
    layer(np.ones((1, 4, 4, 2), "float32"), training=False)
    layer.trainable = False
    layer(np.ones((1, 4, 4, 2), "float32"), training=True)
    assert not np.asarray(layer.moving_mean).any() and (np.asarray(layer.moving_variance) == 1).all()
