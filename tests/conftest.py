"""Settings that every test process shares, which must come before Keras is imported; a network's spec."""

import dataclasses
import os
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

if os.environ["KERAS_BACKEND"] != "tensorflow":
    # The core must run where TensorFlow is not installed; here it is, so its import is made to fail.
    sys.modules["tensorflow"] = None

import pytest
from hypothesis import settings

from ssd.spec.config import Network

# Derandomised: the suite gives the same answer twice. No deadline: the first call of an op traces or compiles.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("suite")

NETWORK = Network(
    dssd=False,
    arch="resnet",
    nlayers=10,
    aspect_ratios=((1.0, 2.0, 0.5, 3.0, 1 / 3),) * 6,
    scales=(0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85),
    two_boxes_for_ar1=True,
    steps=None,
    offsets=None,
    clip_boxes=False,
    variances=(0.1, 0.1, 0.2, 0.2),
    pred_num_channels=0,
    alpha=1.0,
    neg_pos_ratio=3.0,
    pos_iou_thresh=0.5,
    neg_iou_thresh=0.5,
    freeze_blocks=(),
    freeze_bn=False,
)


@pytest.fixture(scope="session")
def network():
    """`network(nlayers=18, ...)`: `ssd_config` with these fields changed."""
    return lambda **changes: dataclasses.replace(NETWORK, **changes)


@pytest.fixture(scope="session")
def tao_files():
    """The module beside this one that writes TAO's files; tests are no packages, so it has to be found."""
    from importlib import util

    spec = util.spec_from_file_location("tao_files", os.path.join(os.path.dirname(__file__), "tao_files.py"))
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
