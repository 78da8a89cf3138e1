"""What a device can, and how it is used."""

import os

import keras
import numpy as np
import pytest

from ssd.training.hardware import fused, make_deterministic, whole_step_by_xla


def test_xla_takes_a_part_of_the_step_on_cpus_only(monkeypatch):
    import tensorflow as tf

    def double(x):
        return 2 * x

    if keras.backend.backend() == "tensorflow":
        assert fused(double) is not double
    np.testing.assert_array_equal(np.asarray(fused(double)(np.arange(3))), [0, 2, 4])
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"])
    assert fused(double) is double


def test_xla_takes_the_whole_step_on_one_gpu(monkeypatch):
    if keras.backend.backend() != "tensorflow":
        assert whole_step_by_xla(1) and whole_step_by_xla(4)
        return
    import tensorflow as tf

    assert not whole_step_by_xla(1)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"])
    assert whole_step_by_xla(1) and not whole_step_by_xla(2)


@pytest.mark.parametrize("before", ["", "--xla_dump_to=/tmp/xla"])
def test_jax_is_told_to_be_deterministic(monkeypatch, before):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setenv("XLA_FLAGS", before)
    make_deterministic()
    assert os.environ["XLA_FLAGS"] == f"{before} --xla_gpu_deterministic_ops=true".strip()
