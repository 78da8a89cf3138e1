"""The resolved spec: every default filled in, every string literal parsed. What all other rooms read.

`ssd.spec.resolve` makes these from the protobuf messages; nothing else does. Sizes are pixels, scales and
anchors are relative to the network input, classes count from 1 (0 is background).
"""

import functools
from dataclasses import dataclass

FEATURE_MAPS = 6


@dataclass(frozen=True)
class Network:
    """`ssd_config` or `dssd_config`."""

    dssd: bool
    arch: str
    nlayers: int | None  # None where the architecture has one depth only
    aspect_ratios: tuple[tuple[float, ...], ...]  # one tuple per feature map
    scales: tuple[float, ...]  # one per feature map and one more
    two_boxes_for_ar1: bool
    steps: tuple[tuple[float, float], ...] | None  # (vertical, horizontal) pixels per map; None: the uniform grid
    offsets: tuple[tuple[float, float], ...] | None  # (vertical, horizontal) fractions of a step; None: 0.5
    clip_boxes: bool
    variances: tuple[float, float, float, float]  # cx, cy, w, h
    pred_num_channels: int  # 0: no prediction module
    alpha: float  # weight of the localisation loss
    neg_pos_ratio: float
    pos_iou_thresh: float
    neg_iou_thresh: float
    freeze_blocks: tuple[int, ...]
    freeze_bn: bool

    @property
    def name(self) -> str:
        """`resnet18`, `mobilenet_v2`: as in TAO's file names."""
        return f"{self.arch}{self.nlayers or ''}"

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Anchors of one cell, per feature map."""
        return tuple(len(ratios) + (self.two_boxes_for_ar1 and 1.0 in ratios) for ratios in self.aspect_ratios)


@dataclass(frozen=True)
class Schedule:
    """`learning_rate`, a function of the progress 0..1. `annealing` is None for the cosine schedule."""

    kind: str  # "annealing" or "cosine"
    min_learning_rate: float
    max_learning_rate: float
    soft_start: float
    annealing: float | None


@dataclass(frozen=True)
class Regularizer:
    """On the kernels of regular convolutions. `kind` is "none", "l1" or "l2"."""

    kind: str
    weight: float


@dataclass(frozen=True)
class Optimizer:
    """`kind` is "sgd", "adam" or "rmsprop"; `options` are the keyword arguments of the Keras optimizer."""

    kind: str
    options: tuple[tuple[str, float | bool], ...]


@dataclass(frozen=True)
class EarlyStopping:
    """Stops when the monitored value did not fall by `min_delta` for `patience` epochs."""

    monitor: str  # "loss" or "validation_loss"
    min_delta: float
    patience: int


@dataclass(frozen=True)
class Visualizer:
    """TensorBoard: scalars always, `num_images` augmented images per epoch."""

    num_images: int
    weight_histograms: bool


@dataclass(frozen=True)
class Qat:
    """`qat_config`: quantization-aware training.

    `keep_float`: names and patterns of convolutions that are not quantized; `settle_at`: share of the epochs after
    which ranges and batch statistics stay.
    """

    keep_float: tuple[str, ...]
    settle_at: float


@dataclass(frozen=True)
class Training:
    """`training_config`."""

    batch_size: int  # per device
    num_epochs: int
    learning_rate: Schedule
    regularizer: Regularizer
    optimizer: Optimizer
    checkpoint_interval: int
    qat: Qat | None  # None without enable_qat
    resume_model_path: str | None
    pretrain_model_path: str | None
    pruned_model_path: str | None
    prefetch: int | None  # max_queue_size; None: chosen at run time
    workers: int | None  # n_workers; None: chosen at run time
    early_stopping: EarlyStopping | None
    visualizer: Visualizer | None
    model_ema: bool


@dataclass(frozen=True)
class Evaluation:
    """`eval_config`."""

    validation_period: int
    average_precision_mode: str  # "SAMPLE" or "INTEGRATE"
    batch_size: int
    matching_iou_threshold: float
    visualize_pr_curve: bool


@dataclass(frozen=True)
class Nms:
    """`nms_config`."""

    confidence_threshold: float
    iou_threshold: float
    top_k: int
    score_bits: int


# Weights of R, G, B in the one channel of a gray network, and in the luma that colour jitter keeps (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """`augmentation_config`: the network input, its mean, and the random changes of training."""

    width: int
    height: int
    channels: int  # 1 or 3
    mean: tuple[float, ...]  # (b, g, r), or (l,)
    crop_scale: tuple[float, float]  # min = max = 1: no crop
    crop_aspect_ratio: tuple[float, float]
    zoom_out: tuple[float, float]  # min = max = 1: no zoom-out
    brightness: float  # 0..255; 0: off, as for the next three
    contrast: float
    saturation: float
    hue: float  # OpenCV's half degrees, 0..180
    flip: float  # probability


@dataclass(frozen=True)
class DataSource:
    """Either a KITTI pair of folders or a pattern of TFRecords, as written in the spec ('~' expanded)."""

    image_dir: str | None = None
    label_dir: str | None = None
    tfrecords: str | None = None


@dataclass(frozen=True)
class Dataset:
    """`dataset_config`."""

    training: tuple[DataSource, ...]
    validation: tuple[DataSource, ...]
    classes: tuple[str, ...]  # target classes in index order: the first is class 1
    class_mapping: tuple[tuple[str, str], ...]  # normalised source name -> target class, sorted
    include_difficult: bool  # in training


@dataclass(frozen=True)
class Experiment:
    """An experiment spec. `training` and the data sources may be missing where the verb does not need them."""

    random_seed: int
    network: Network
    augmentation: Augmentation
    nms: Nms
    evaluation: Evaluation
    dataset: Dataset
    training: Training | None
    text: str  # the resolved spec as prototxt, every default filled in; parses to this again

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes


@dataclass(frozen=True)
class KittiInput:
    """`kitti_config`."""

    root: str
    image_dir: str
    label_dir: str
    image_extension: str
    partition_mode: str  # "random" or "sequence"
    num_partitions: int
    num_shards: int
    val_split: float  # percent
    sequence_file: str | None


@dataclass(frozen=True)
class CocoInput:
    """`coco_config`: partition i has `annotation_files[i]`, images in `image_dirs[i]`, `num_shards[i]` shards."""

    root: str
    image_dirs: tuple[str, ...]
    annotation_files: tuple[str, ...]
    num_shards: tuple[int, ...]


@dataclass(frozen=True)
class Conversion:
    """A dataset_convert spec. Without a mapping in it, `classes` is empty: names come from `--class_names_file`."""

    source: KittiInput | CocoInput
    classes: tuple[str, ...]
    class_mapping: tuple[tuple[str, str], ...]
    max_training_samples: int | None
    text: str


@functools.lru_cache(1024)  # asked for every object of a dataset, of which there are a few names
def class_key(name: str) -> str:
    """How class names are compared: without case and spaces, as TAO's converters did."""
    return "".join(name.split()).lower()
