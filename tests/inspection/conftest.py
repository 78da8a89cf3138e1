"""An index of images without files, for what only looks at boxes; a spec of three classes."""

import numpy as np
import pytest

from ssd.data.sources import ImageIndex

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


@pytest.fixture(scope="session")
def spec_text():
    """`spec_text(training, validation)`: a spec for two KITTI folders."""
    return lambda training, validation: SPEC.format(training=training, validation=validation)


@pytest.fixture
def make_index():
    def make(images, size=(100, 200), names=None, files=None) -> ImageIndex:
        """`images`: per image a list of (class, (xmin, ymin, xmax, ymax) in px); `size`: height, width of all."""
        height, width = size
        counts = [len(objects) for objects in images]
        flat = [item for objects in images for item in objects]
        boxes = np.array([box for _, box in flat], np.float64).reshape(-1, 4) / (width, height, width, height)
        names = names or [f"{number}.jpg" for number in range(len(images))]
        return ImageIndex(
            names=names,
            files=files or names,
            spans=np.tile(np.array([0, -1, 0, 0]), (len(images), 1)),
            sizes=np.tile(np.array([size], np.int32), (len(images), 1)),
            orientations=np.ones(len(images), np.int32),
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes=boxes.astype(np.float32),
            classes=np.array([label for label, _ in flat], np.int32),
            difficult=np.zeros(len(flat), bool),
            left_out=np.zeros(len(images), np.int32),
        )

    return make
