"""Specs to start from: the guide's samples as they are, and a small one whose paths exist."""

import pytest

GUIDE_EXPERIMENT = """
random_seed: 42
ssd_config {
  aspect_ratios: "[[1.0, 2.0, 0.5], [1.0, 2.0, 0.5, 3.0, 1.0/3.0], [1.0, 2.0, 0.5, 3.0, 1.0/3.0], [1.0, 2.0, 0.5, 3.0, 1.0/3.0], [1.0, 2.0, 0.5], [1.0, 2.0, 0.5]]"
  scales: "[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]"
  two_boxes_for_ar1: true
  clip_boxes: false
  variances: "[0.1, 0.1, 0.2, 0.2]"
  arch: "resnet"
  nlayers: 18
  freeze_bn: false
  freeze_blocks: 0
}
training_config {
  batch_size_per_gpu: 16
  num_epochs: 80
  enable_qat: false
  learning_rate {
    soft_start_annealing_schedule {
      min_learning_rate: 5e-5
      max_learning_rate: 2e-2
      soft_start: 0.15
      annealing: 0.8
    }
  }
  regularizer {
    type: L1
    weight: 3e-5
  }
}
eval_config {
  validation_period_during_training: 10
  average_precision_mode: SAMPLE
  batch_size: 16
  matching_iou_threshold: 0.5
}
nms_config {
  confidence_threshold: 0.01
  clustering_iou_threshold: 0.6
  top_k: 200
}
augmentation_config {
  output_width: 300
  output_height: 300
  output_channel: 3
  image_mean {
    key: 'b'
    value: 103.9
  }
  image_mean {
    key: 'g'
    value: 116.8
  }
  image_mean {
    key: 'r'
    value: 123.7
  }
}
dataset_config {
  data_sources: {
    # option 1
    tfrecords_path: "/path/to/train/tfrecord"
    # option 2
    # label_directory_path: "/path/to/train/labels"
    # image_directory_path: "/path/to/train/images"
  }
  include_difficult_in_training: true
  target_class_mapping {
    key: "car"
    value: "car"
  }
  target_class_mapping {
    key: "pedestrian"
    value: "pedestrian"
  }
  target_class_mapping {
    key: "cyclist"
    value: "cyclist"
  }
  target_class_mapping {
    key: "van"
    value: "car"
  }
  target_class_mapping {
    key: "person_sitting"
    value: "pedestrian"
  }
  validation_data_sources: {
    label_directory_path: "/path/to/val/labels"
    image_directory_path: "/path/to/val/images"
  }
}
"""  # noqa: E501

GUIDE_KITTI = """
kitti_config {
  root_directory_path: "/workspace/tao-experiments/data/"
  image_dir_name: "training/image_2"
  label_dir_name: "training/label_2"
  image_extension: ".png"
  partition_mode: "random"
  num_partitions: 2
  val_split: 0
  num_shards: 10
}
image_directory_path: "/workspace/tao-experiments/data/"
target_class_mapping {
  key: "car"
  value: "car"
}
target_class_mapping {
  key: "pedestrian"
  value: "pedestrian"
}
target_class_mapping {
  key: "cyclist"
  value: "cyclist"
}
target_class_mapping {
  key: "van"
  value: "car"
}
target_class_mapping {
  key: "person_sitting"
  value: "pedestrian"
}
target_class_mapping {
  key: "truck"
  value: "car"
}
"""

GUIDE_COCO = """
coco_config {
  root_directory_path: "/workspace/tao-experiments/data/coco"
  img_dir_names: ["val2017", "train2017"]
  annotation_files: ["annotations/instances_val2017.json", "annotations/instances_train2017.json"]
  num_partitions: 2
  num_shards: [32, 256]
}
image_directory_path: "/workspace/tao-experiments/data/coco"
"""

# Only what has no default.
SMALL = """\
ssd_config {
  nlayers: 10
  aspect_ratios_global: "[1.0, 2.0, 0.5]"
  scales: "[0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85]"
  variances: "[0.1, 0.1, 0.2, 0.2]"
}
training_config {
  batch_size_per_gpu: 4
  num_epochs: 2
  learning_rate {
    soft_start_annealing_schedule {
      min_learning_rate: 1e-4
      max_learning_rate: 1e-2
      soft_start: 0.1
      annealing: 0.7
    }
  }
  regularizer { type: NO_REG }
}
eval_config { }
nms_config { }
augmentation_config {
  output_width: 128
  output_height: 160
  output_channel: 3
}
dataset_config {
  data_sources {
    image_directory_path: "images"
    label_directory_path: "labels"
  }
  validation_data_sources {
    tfrecords_path: "records/val"
  }
  target_class_mapping { key: "car" value: "car" }
}
"""

SMALL_KITTI = """\
kitti_config {
  root_directory_path: "."
  image_dir_name: "images"
  label_dir_name: "labels"
}
target_class_mapping { key: "car" value: "car" }
"""

SMALL_COCO = """\
coco_config {
  root_directory_path: "."
  img_dir_names: ["images", "images"]
  annotation_files: ["val.json", "train.json"]
}
"""


@pytest.fixture
def guide_experiment() -> str:
    return GUIDE_EXPERIMENT


@pytest.fixture
def guide_kitti() -> str:
    return GUIDE_KITTI


@pytest.fixture
def guide_coco() -> str:
    return GUIDE_COCO


@pytest.fixture
def small() -> str:
    return SMALL


@pytest.fixture
def small_kitti() -> str:
    return SMALL_KITTI


@pytest.fixture
def small_coco() -> str:
    return SMALL_COCO


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with everything that the small specs name."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "labels", "records"):
        (tmp_path / name).mkdir()
    for name in ("records/val-fold-000-of-002", "val.json", "train.json", "model.keras"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    """What the spec room warned about."""
    lines: list[str] = []
    monkeypatch.setattr("ssd.console.warn", lines.append)
    return lines
