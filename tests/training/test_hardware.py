"""What a device can, and how it is used."""

import keras
import numpy as np

from ssd.training.hardware import fused


def test_xla_takes_a_part_of_the_step_on_cpus_only(monkeypatch):
    import tensorflow as tf

    def double(x):
        return 2 * x

    if keras.backend.backend() == "tensorflow":
        assert fused(double) is not double
    np.testing.assert_array_equal(np.asarray(fused(double)(np.arange(3))), [0, 2, 4])
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"])
    assert fused(double) is double
