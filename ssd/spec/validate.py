"""What a filled experiment spec must satisfy. Every check adds to the findings; none stops the others."""

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from ssd.spec.datasets import (
    check_file,
    check_mapping,
    check_source,
    clean_source,
    is_blank,
    is_complete,
)
from ssd.spec.messages import given, walk
from ssd.spec.network import check_network
from ssd.spec.source import Findings

TRAIN, EVALUATE, INFERENCE, PRUNE, EXPORT = "train", "evaluate", "inference", "prune", "export"

# Blocks that each verb cannot do without. The others take their defaults.
REQUIRED_BLOCKS = {
    TRAIN: ("training_config", "eval_config", "nms_config", "augmentation_config", "dataset_config"),
    EVALUATE: ("eval_config", "nms_config", "augmentation_config", "dataset_config"),
    INFERENCE: ("nms_config", "augmentation_config", "dataset_config"),
    PRUNE: ("augmentation_config", "dataset_config"),
    EXPORT: ("nms_config", "augmentation_config", "dataset_config"),
}
MIN_SIZE = 128
SIZE_STEP = 32


@dataclass(frozen=True)
class Rule:
    """`text` completes "allowed: "."""

    text: str
    holds: Callable[[float], bool]


POSITIVE = Rule("more than 0", lambda value: value > 0)
NOT_NEGATIVE = Rule("0 or more", lambda value: value >= 0)
INSIDE_0_1 = Rule("more than 0 and less than 1", lambda value: 0 < value < 1)
UP_TO_1 = Rule("more than 0, at most 1", lambda value: 0 < value <= 1)
BELOW_1 = Rule("from 0, less than 1", lambda value: 0 <= value < 1)
AT_LEAST_1 = Rule("1 or more", lambda value: value >= 1)
SIZE = Rule(f"{MIN_SIZE} or more", lambda value: value >= MIN_SIZE)


def between(low: float, high: float) -> Rule:
    return Rule(f"{low} to {high}", lambda value: low <= value <= high)


RULES = {
    "SSDConfig": {
        "alpha": POSITIVE,
        "neg_pos_ratio": POSITIVE,
        "pos_iou_thresh": UP_TO_1,
        "neg_iou_thresh": UP_TO_1,
    },
    "TrainingConfig": {"batch_size_per_gpu": POSITIVE, "num_epochs": POSITIVE},
    "SoftStartAnnealingScheduleConfig": {
        "min_learning_rate": POSITIVE,
        "max_learning_rate": POSITIVE,
        "soft_start": INSIDE_0_1,
        "annealing": INSIDE_0_1,
    },
    "SoftStartCosineAnnealingScheduleConfig": {
        "min_learning_rate": POSITIVE,
        "max_learning_rate": POSITIVE,
        "soft_start": INSIDE_0_1,
    },
    "AdamOptimizerConfig": {"epsilon": POSITIVE, "beta1": INSIDE_0_1, "beta2": INSIDE_0_1},
    "SgdOptimizerConfig": {"momentum": BELOW_1},
    "RmspropOptimizerConfig": {"rho": BELOW_1, "momentum": BELOW_1, "epsilon": POSITIVE},
    "QatConfig": {"settle_at": UP_TO_1},
    "EarlyStopping": {"min_delta": NOT_NEGATIVE},
    "EvalConfig": {
        "validation_period_during_training": POSITIVE,
        "batch_size": POSITIVE,
        "matching_iou_threshold": INSIDE_0_1,
    },
    "NMSConfig": {
        "confidence_threshold": INSIDE_0_1,
        "clustering_iou_threshold": INSIDE_0_1,
        "top_k": POSITIVE,
    },
    "AugmentationConfig": {
        "output_width": SIZE,
        "output_height": SIZE,
        "output_channel": Rule("1 or 3", lambda value: value in (1, 3)),
        "random_crop_min_scale": UP_TO_1,
        "random_crop_max_scale": UP_TO_1,
        "random_crop_min_ar": POSITIVE,
        "random_crop_max_ar": POSITIVE,
        "zoom_out_min_scale": AT_LEAST_1,
        "zoom_out_max_scale": AT_LEAST_1,
        "brightness": between(0, 255),
        "contrast": BELOW_1,
        "saturation": BELOW_1,
        "hue": between(0, 180),
        "random_flip": BELOW_1,
    },
}
# Fields without a default.
REQUIRED_FIELDS = {
    "TrainingConfig": ("batch_size_per_gpu", "num_epochs"),
    "SoftStartAnnealingScheduleConfig": ("min_learning_rate", "max_learning_rate", "soft_start", "annealing"),
    "SoftStartCosineAnnealingScheduleConfig": ("min_learning_rate", "max_learning_rate", "soft_start"),
    "AugmentationConfig": ("output_width", "output_height", "output_channel"),
}
ORDERED = {
    "SoftStartAnnealingScheduleConfig": (("min_learning_rate", "max_learning_rate"),),
    "SoftStartCosineAnnealingScheduleConfig": (("min_learning_rate", "max_learning_rate"),),
    "AugmentationConfig": (
        ("random_crop_min_scale", "random_crop_max_scale"),
        ("random_crop_min_ar", "random_crop_max_ar"),
        ("zoom_out_min_scale", "zoom_out_max_scale"),
    ),
}
MONITORS = ("loss", "validation_loss")


def check_blocks(spec: Message, verb: str, findings: Findings) -> None:
    """Finds the blocks that are missing for the verb; before defaults are filled in."""
    if not spec.WhichOneof("network"):
        findings.absent("ssd_config", f"is missing: {verb} needs ssd_config or dssd_config")
    for name in REQUIRED_BLOCKS[verb]:
        if not spec.HasField(name):
            findings.absent(name, f"is missing: {verb} needs it")


def check_experiment(spec: Message, verb: str, findings: Findings) -> None:
    """Finds all problems of a filled experiment spec, in the order of its blocks."""
    network = spec.WhichOneof("network")
    if network:
        check_network(getattr(spec, network), network, findings)
    for block, path in walk(spec):
        check_values(block, path, findings)
    if spec.HasField("training_config"):
        _check_training(spec, verb, findings)
    if spec.HasField("augmentation_config"):
        _check_augmentation(spec.augmentation_config, verb, findings)
    if spec.HasField("dataset_config"):
        _check_dataset(spec.dataset_config, verb, findings)


def check_values(block: Message, path: str, findings: Findings, rules: dict = RULES) -> None:
    """Checks one block against the tables: presence, ranges, min <= max."""
    kind = block.DESCRIPTOR.name
    allowed = rules.get(kind, {})
    good = {}
    for name in REQUIRED_FIELDS.get(kind, ()):
        if not block.HasField(name):
            findings.absent(f"{path}.{name}", f"is missing, allowed: {allowed[name].text}")
    for name, rule in allowed.items():
        value = given(block, name)
        if value is None:
            continue
        if rule.holds(value):
            good[name] = value
        else:
            findings.wrong(f"{path}.{name}", f"is {value}, allowed: {rule.text}")
    for low, high in ORDERED.get(kind, ()):
        if low not in good or high not in good or good[low] <= good[high]:
            continue
        if f"{path}.{low}" in findings.source.lines:
            findings.wrong(f"{path}.{low}", f"is {good[low]}, allowed: at most {high}, {good[high]}")
        else:  # the default: the fault is with the other
            findings.wrong(f"{path}.{high}", f"is {good[high]}, allowed: at least {low}, {good[low]}")


def _check_training(spec: Message, verb: str, findings: Findings) -> None:
    training = spec.training_config
    path = "training_config.learning_rate"
    schedule = training.learning_rate.WhichOneof("learning_rate")
    if schedule is None:
        text = "is missing, allowed: soft_start_annealing_schedule or soft_start_cosine_annealing_schedule"
        findings.absent(path, text)
    if schedule == "soft_start_annealing_schedule":
        rates = training.learning_rate.soft_start_annealing_schedule
        soft_start, annealing = given(rates, "soft_start"), given(rates, "annealing")
        if soft_start is not None and annealing is not None and soft_start >= annealing:
            text = f"is {soft_start}, allowed: less than annealing, {annealing}"
            findings.wrong(f"{path}.{schedule}.soft_start", text)
    _check_regularizer(training, findings)
    if training.HasField("early_stopping"):
        _check_early_stopping(spec, verb, findings)
    if training.HasField("qat_config") and not training.enable_qat:
        findings.warn("training_config.qat_config", "has no effect without enable_qat: true")
        training.ClearField("qat_config")
    model = training.WhichOneof("load_model")
    if model and verb == TRAIN:
        check_file(getattr(training, model), f"training_config.{model}", findings)


def _check_regularizer(training: Message, findings: Findings) -> None:
    path = "training_config.regularizer"
    if not training.HasField("regularizer"):
        findings.absent(path, "is missing, allowed types: NO_REG, L1, L2", "for none: regularizer { type: NO_REG }")
        return
    regularizer = training.regularizer
    if not regularizer.type:
        return
    weight = given(regularizer, "weight")
    if weight is None:
        findings.absent(f"{path}.weight", f"is missing, allowed: {INSIDE_0_1.text}", "for example 3e-5")
    elif not INSIDE_0_1.holds(weight):
        findings.wrong(f"{path}.weight", f"is {weight}, allowed: {INSIDE_0_1.text}")


def _check_early_stopping(spec: Message, verb: str, findings: Findings) -> None:
    path = "training_config.early_stopping.monitor"
    monitor = given(spec.training_config.early_stopping, "monitor")
    if monitor not in MONITORS:
        note = findings.absent if monitor is None else findings.wrong
        note(path, f"is {'missing' if monitor is None else repr(monitor)}, allowed: {', '.join(MONITORS)}")
    elif monitor == "validation_loss" and verb == TRAIN:
        sources = spec.dataset_config.validation_data_sources
        if all(is_blank(source) for source in sources):
            findings.wrong(path, "is validation_loss, which needs dataset_config.validation_data_sources")


def _check_augmentation(augmentation: Message, verb: str, findings: Findings) -> None:
    path = "augmentation_config"
    for name in ("output_width", "output_height"):
        size = getattr(augmentation, name)
        if verb == TRAIN and size >= MIN_SIZE and size % SIZE_STEP:
            findings.warn(f"{path}.{name}", f"is {size}; multiples of {SIZE_STEP} use the feature maps fully")
    keys = {1: ("l",), 3: ("b", "g", "r")}.get(augmentation.output_channel)
    if keys is None:
        return  # the channels are a problem of their own
    means = augmentation.image_mean
    for key in sorted(means):
        where = f'{path}.image_mean["{key}"]'
        if key not in ("b", "g", "r", "l"):
            findings.wrong(where, f"is no colour, allowed keys: {', '.join(keys)}")
        elif key not in keys:
            findings.warn(where, f"has no effect with output_channel {augmentation.output_channel}")
            del means[key]
        elif not 0 <= means[key] <= 255:
            findings.wrong(where, f"is {means[key]:.6g}, allowed: 0 to 255")
    missing = [key for key in keys if key not in means]
    if missing:
        text = f"has no {' and no '.join(missing)}, needed with output_channel {augmentation.output_channel}: "
        findings.absent(f"{path}.image_mean", text + ", ".join(keys), "without image_mean ImageNet's means are used")


def _check_dataset(dataset: Message, verb: str, findings: Findings) -> None:
    path = "dataset_config"
    if dataset.target_class_mapping:
        check_mapping(dataset.target_class_mapping, f"{path}.target_class_mapping", findings)
    else:
        text = "is missing: it maps the classes of the labels to the classes to be detected"
        hint = 'for example target_class_mapping { key: "van" value: "car" }'
        findings.absent(f"{path}.target_class_mapping", text, hint)
    if verb == TRAIN and not dataset.data_sources:
        findings.absent(f"{path}.data_sources", "is missing: train needs labelled images")
    blank_validation = all(is_blank(source) for source in dataset.validation_data_sources)
    if verb == EVALUATE and blank_validation:
        findings.absent(f"{path}.validation_data_sources", "is missing: evaluate needs labelled images")
    needed = {"data_sources": verb == TRAIN, "validation_data_sources": verb in (TRAIN, EVALUATE)}
    for name, is_needed in needed.items():
        kept = []
        for index, source in enumerate(getattr(dataset, name)):
            where = f"{path}.{name}[{index}]"
            clean_source(source, where, findings)
            # An empty validation block means no validation data, as in TAO.
            if is_needed and not (name == "validation_data_sources" and is_blank(source)):
                check_source(source, where, findings)
            if is_complete(source):
                kept.append(source)
        sources = getattr(dataset, name)
        kept = [type(source).FromString(source.SerializeToString()) for source in kept]
        del sources[:]
        sources.extend(kept)
