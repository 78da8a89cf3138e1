"""Settings that every test process shares, which must come before Keras is imported; specs."""

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

SPEC = """
random_seed: 1
ssd_config {{
  arch: "resnet" nlayers: 10
  aspect_ratios_global: "[1.0, 2.0, 0.5]"
  scales: "[0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95]"
  two_boxes_for_ar1: true
  variances: "[0.1, 0.1, 0.2, 0.2]"
}}
training_config {{
  batch_size_per_gpu: 4 num_epochs: 1
  learning_rate {{ soft_start_annealing_schedule {{
    min_learning_rate: 1e-4 max_learning_rate: 1e-2 soft_start: 0.1 annealing: 0.5 }} }}
  regularizer {{ type: NO_REG }}
}}
eval_config {{ validation_period_during_training: 1 batch_size: 4 matching_iou_threshold: 0.5 }}
nms_config {{ confidence_threshold: 0.01 clustering_iou_threshold: 0.5 top_k: 20 }}
augmentation_config {{ output_width: 128 output_height: 128 output_channel: 3 }}
dataset_config {{
  data_sources {{ image_directory_path: "{training}/images" label_directory_path: "{training}/labels" }}
  validation_data_sources {{ image_directory_path: "{validation}/images" label_directory_path: "{validation}/labels" }}
  target_class_mapping {{ key: "square" value: "square" }}
  target_class_mapping {{ key: "disc" value: "disc" }}
  target_class_mapping {{ key: "star" value: "star" }}
}}
"""


@pytest.fixture(autouse=True)
def forgotten_graphs():
    """TensorFlow registers every custom gradient for good, and with it the graph of every step that was compiled:
    gigabytes by the end of the suite, which collecting garbage looks through again and again."""
    yield
    if sys.modules.get("tensorflow.python.framework.ops"):
        registered = sys.modules["tensorflow.python.framework.ops"].gradient_registry._registry
        for name in [name for name in registered if name.startswith("CustomGradient-")]:
            del registered[name]


@pytest.fixture(scope="session")
def network():
    """`network(nlayers=18, ...)`: `ssd_config` with these fields changed."""
    return lambda **changes: dataclasses.replace(NETWORK, **changes)


@pytest.fixture(scope="session")
def spec_text():
    """`spec_text(training, validation)`: a spec of three classes for two folders with `images` and `labels`."""
    return lambda training, validation: SPEC.format(training=training, validation=validation)


@pytest.fixture(scope="session")
def tao_files():
    """The module that writes TAO's files."""
    import tao_files

    return tao_files


@pytest.fixture(scope="session")
def small():
    """The module that makes small networks and graphs."""
    import small_networks

    return small_networks
