"""The training step needs no TensorFlow: JAX, numpy batches, a real network."""

import importlib.util
import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.modules["tensorflow"] = None  # an import of it fails

import numpy as np
from ssd.spec.config import Network, Optimizer, Regularizer, Schedule
from ssd.models.detector import anchors_for, build_detector
from ssd.training.optimizers import make_optimizer
from ssd.training.schedules import SoftStart
from ssd.training.shapes import keyed
from ssd.training.step import TrainingModel

network = Network(
    False, "resnet", 10, ((1.0,),) * 6, (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0), False, None, None, False,
    (0.1, 0.1, 0.2, 0.2), 0, 1.0, 3.0, 0.5, 0.5, (), False,
)

class spec: pass
spec.network = network

detectors = [build_detector(network, (128, 128, 3), 2, Regularizer("l2", 1e-5)) for _ in range(2)]
training = TrainingModel(detectors[0], anchors_for(detectors[0], spec), network, detectors[1])
schedule = SoftStart(Schedule("annealing", 1e-4, 1e-2, 0.1, 0.8), 10)
training.compile(optimizer=make_optimizer(Optimizer("sgd", (("momentum", 0.9),)), schedule), jit_compile=True)
boxes, classes = np.zeros((2, 16, 4), "float32"), np.zeros((2, 16), "int32")
boxes[:, 0], classes[:, 0] = (0.2, 0.2, 0.6, 0.6), 1
images = np.random.default_rng(0).normal(0, 40, (2, 128, 128, 3)).astype("float32")
before = training.detector.get_weights()
for _ in range(2):
    training.train_on_batch(images, keyed({"boxes": boxes, "classes": classes}))
totals = training.totals()
assert totals["images"] == 4 and np.isfinite(totals["loss"]), totals
assert training.first_bad_step() is None
# Parts of the heads that nothing matched stay as they are.
changed = sum(not np.array_equal(a, b) for a, b in zip(before, training.detector.get_weights()))
assert changed > len(before) // 2, (changed, len(before))
print("trained on", __import__("keras").backend.backend())
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_a_step_on_jax_without_tensorflow():
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "trained on jax\n"
