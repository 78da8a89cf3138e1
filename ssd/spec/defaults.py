"""What an absent field means: the documented defaults, written into the message and so into the resolved spec."""

import os

from google.protobuf.message import Message

from ssd.spec.messages import walk
from ssd.spec.source import Findings

DEFAULTS = {
    "Experiment": {"random_seed": 0},
    "SSDConfig": {
        "two_boxes_for_ar1": False,
        "clip_boxes": False,
        "arch": "resnet",
        "pred_num_channels": 0,
        "alpha": 1.0,
        "neg_pos_ratio": 3.0,
        "pos_iou_thresh": 0.5,
        "freeze_bn": False,
    },
    "TrainingConfig": {"checkpoint_interval": 1, "enable_qat": False, "model_ema": False},
    "QatConfig": {"settle_at": 0.7},
    "RegularizerConfig": {"type": 0},
    "AdamOptimizerConfig": {"epsilon": 1e-7, "beta1": 0.9, "beta2": 0.999, "amsgrad": False},
    "SgdOptimizerConfig": {"momentum": 0.9, "nesterov": False},
    "RmspropOptimizerConfig": {"rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False},
    "EarlyStopping": {"min_delta": 0.0, "patience": 0},
    "VisualizerConfig": {"enabled": False, "num_images": 3, "weight_histograms": False},
    "EvalConfig": {
        "validation_period_during_training": 10,
        "average_precision_mode": 0,
        "matching_iou_threshold": 0.5,
        "visualize_pr_curve": False,
    },
    "NMSConfig": {
        "confidence_threshold": 0.01,
        "clustering_iou_threshold": 0.6,
        "top_k": 200,
        "infer_nms_score_bits": 0,
    },
    "AugmentationConfig": {
        "random_crop_min_scale": 0.3,
        "random_crop_max_scale": 1.0,
        "random_crop_min_ar": 0.5,
        "random_crop_max_ar": 2.0,
        "zoom_out_min_scale": 1.0,
        "zoom_out_max_scale": 4.0,
        "brightness": 32,
        "contrast": 0.5,
        "saturation": 0.5,
        "hue": 18,
        "random_flip": 0.5,
    },
    # TAO reads the field and trains on difficult objects whatever it says; absence keeps that.
    "DatasetConfig": {"include_difficult_in_training": True},
    "KITTIConfig": {
        "image_extension": ".png",
        "num_partitions": 2,
        "num_shards": 10,
        "partition_mode": "random",
    },
}
EVALUATION_BATCH = 16  # eval_config.batch_size without a training_config: the guide's sample
VAL_SPLIT = 20.0  # percent
COCO_SHARDS = 10
IMAGENET_MEAN = {1: {"l": 117.3786}, 3: {"b": 103.939, "g": 116.779, "r": 123.68}}

# Fields of TAO's specs that have no effect here. Some had none there either.
IGNORED = {
    "SSDConfig": ("mean_color",),
    "TrainingConfig": ("cost_scaling", "use_multiprocessing"),
    "VisualizerConfig": ("wandb_config", "clearml_config"),
    "NMSConfig": ("force_on_cpu",),
    "DatasetConfig": ("type",),
    "KITTIConfig": ("point_clouds_dir", "calibrations_dir"),
    "SampleModifierConfig": (
        "filter_samples_containing_only",
        "dominant_target_classes",
        "minimum_target_class_imbalance",
        "num_duplicates",
        "source_to_target_class_mapping",
    ),
}
PATHS = {
    "DataSource": ("label_directory_path", "image_directory_path", "root_path", "tfrecords_path"),
    "TrainingConfig": ("resume_model_path", "pretrain_model_path", "pruned_model_path"),
    "KITTIConfig": ("root_directory_path", "kitti_sequence_to_frames_file"),
    "COCOConfig": ("root_directory_path",),
    "DatasetExportConfig": ("image_directory_path",),
}


def drop_ignored(message: Message, findings: Findings) -> None:
    """Takes out fields without effect, with a warning by name, and empty strings, which are TAO's absence."""
    for block, path in walk(message):
        for field, value in block.ListFields():
            if field.type == field.TYPE_STRING and not field.is_repeated and not value:
                block.ClearField(field.name)
            elif field.name in IGNORED.get(block.DESCRIPTOR.name, ()):
                # `use_multiprocessing: false` asks for nothing.
                if value or field.message_type is not None:
                    findings.warn(f"{path}.{field.name}", "has no effect here")
                block.ClearField(field.name)


def fill_scalars(message: Message) -> None:
    """Writes DEFAULTS into every block that is present, and expands '~' in paths."""
    for block, _ in walk(message):
        for name, value in DEFAULTS.get(block.DESCRIPTOR.name, {}).items():
            if not block.HasField(name):
                setattr(block, name, value)
        for name in PATHS.get(block.DESCRIPTOR.name, ()):
            if block.HasField(name):
                setattr(block, name, os.path.expanduser(getattr(block, name)))


def fill_experiment(message: Message) -> None:
    """Writes the defaults of an experiment spec into it. The blocks that the verb requires are present."""
    message.eval_config.SetInParent()
    message.nms_config.SetInParent()
    training = message.training_config if message.HasField("training_config") else None
    if training:
        if not training.optimizer.WhichOneof("optimizer"):
            training.optimizer.sgd.SetInParent()
        if training.enable_qat:
            training.qat_config.SetInParent()
        for name in ("max_queue_size", "n_workers"):  # 0 leaves the choice to the run, as absence does
            if not getattr(training, name):
                training.ClearField(name)
    fill_scalars(message)
    if training:
        training.checkpoint_interval = max(training.checkpoint_interval, 1)
        if training.HasField("regularizer") and not training.regularizer.type:
            training.regularizer.ClearField("weight")
        if training.early_stopping.monitor == "val_loss":
            training.early_stopping.monitor = "validation_loss"
    evaluation = message.eval_config
    if not evaluation.HasField("batch_size"):
        evaluation.batch_size = (training and training.batch_size_per_gpu) or EVALUATION_BATCH
    network = message.WhichOneof("network")
    if network:
        config = getattr(message, network)
        if not config.HasField("neg_iou_thresh"):
            config.neg_iou_thresh = min(0.5, config.pos_iou_thresh)
    augmentation = message.augmentation_config
    if not augmentation.image_mean:
        for key, mean in IMAGENET_MEAN.get(augmentation.output_channel, {}).items():
            augmentation.image_mean[key] = mean


def fill_conversion(message: Message) -> None:
    """Writes the defaults of a dataset_convert spec into it."""
    fill_scalars(message)
    kind = message.WhichOneof("convert_config_type")
    if kind is None:
        return
    config = getattr(message, kind)
    if not config.HasField("root_directory_path") and message.HasField("image_directory_path"):
        config.root_directory_path = message.image_directory_path
    message.ClearField("image_directory_path")
    if kind == "kitti_config":
        if config.partition_mode == "random" and not config.HasField("val_split"):
            config.val_split = VAL_SPLIT
        return
    if not config.HasField("num_partitions"):
        config.num_partitions = len(config.annotation_files)
    if not config.num_shards:
        config.num_shards.append(COCO_SHARDS)
    if len(config.num_shards) == 1 and config.num_partitions == len(config.annotation_files):
        config.num_shards.extend([config.num_shards[0]] * (config.num_partitions - 1))
