"""Spec text -> the resolved dataclasses of ssd.spec.config: parse, fill in defaults, check everything, build."""

import dataclasses

from google.protobuf import text_format
from google.protobuf.message import Message

from ssd.errors import raise_all
from ssd.spec import config
from ssd.spec.conversion import build_conversion, check_conversion, check_root
from ssd.spec.dataset_convert_pb2 import DatasetExportConfig
from ssd.spec.datasets import build_mapping, build_source
from ssd.spec.defaults import drop_ignored, fill_conversion, fill_experiment
from ssd.spec.experiment_pb2 import EvalConfig, Experiment
from ssd.spec.messages import decimal
from ssd.spec.network import build_network
from ssd.spec.parse import parse_spec
from ssd.spec.validate import check_blocks, check_experiment

# message name: field -> keyword of the Keras optimizer
_OPTIMIZERS = {
    "adam": {"epsilon": "epsilon", "beta1": "beta_1", "beta2": "beta_2", "amsgrad": "amsgrad"},
    "sgd": {"momentum": "momentum", "nesterov": "nesterov"},
    "rmsprop": {"rho": "rho", "momentum": "momentum", "epsilon": "epsilon", "centered": "centered"},
}
_REGULARIZERS = ("none", "l1", "l2")


def resolve_experiment(text: str, name: str, verb: str) -> tuple[config.Experiment, list[str]]:
    """Reads an experiment spec for a verb.

    Returns:
        The resolved spec and warnings.

    Raises:
        SpecError, Problems: everything that is wrong with it, `name:line: field ...`.
    """
    spec, findings = parse_spec(text, Experiment, name)
    drop_ignored(spec, findings)
    check_blocks(spec, verb, findings)
    fill_experiment(spec)
    check_experiment(spec, verb, findings)
    raise_all(findings.problems)
    return _experiment(spec), findings.warnings


def resolve_conversion(text: str, name: str) -> tuple[config.Conversion, list[str]]:
    """Reads a dataset_convert spec. Returns and raises as resolve_experiment."""
    spec, findings = parse_spec(text, DatasetExportConfig, name)
    drop_ignored(spec, findings)
    check_root(spec, findings)
    fill_conversion(spec)
    check_conversion(spec, findings)
    raise_all(findings.problems)
    return build_conversion(spec, _text(spec)), findings.warnings


def with_training_batch(spec: config.Experiment, batch_size: int) -> config.Experiment:
    """`spec`, its text too, with another training batch size."""
    message = text_format.Parse(spec.text, Experiment())
    message.training_config.batch_size_per_gpu = batch_size
    training = dataclasses.replace(spec.training, batch_size=batch_size)
    return dataclasses.replace(spec, training=training, text=_text(message))


def _text(spec: Message) -> str:
    return text_format.MessageToString(spec, as_utf8=True)


def _experiment(spec: Message) -> config.Experiment:
    network = spec.WhichOneof("network")
    return config.Experiment(
        random_seed=spec.random_seed,
        network=build_network(getattr(spec, network), dssd=network == "dssd_config"),
        augmentation=_augmentation(spec.augmentation_config),
        nms=config.Nms(
            confidence_threshold=decimal(spec.nms_config.confidence_threshold),
            iou_threshold=decimal(spec.nms_config.clustering_iou_threshold),
            top_k=spec.nms_config.top_k,
            score_bits=spec.nms_config.infer_nms_score_bits,
        ),
        evaluation=config.Evaluation(
            validation_period=spec.eval_config.validation_period_during_training,
            average_precision_mode=EvalConfig.AveragePrecisionMode.Name(spec.eval_config.average_precision_mode),
            batch_size=spec.eval_config.batch_size,
            matching_iou_threshold=decimal(spec.eval_config.matching_iou_threshold),
            visualize_pr_curve=spec.eval_config.visualize_pr_curve,
        ),
        dataset=_dataset(spec.dataset_config),
        training=_training(spec.training_config) if spec.HasField("training_config") else None,
        text=_text(spec),
    )


def _augmentation(spec: Message) -> config.Augmentation:
    keys = ("b", "g", "r") if spec.output_channel == 3 else ("l",)
    return config.Augmentation(
        width=spec.output_width,
        height=spec.output_height,
        channels=spec.output_channel,
        mean=tuple(decimal(spec.image_mean[key]) for key in keys),
        crop_scale=(decimal(spec.random_crop_min_scale), decimal(spec.random_crop_max_scale)),
        crop_aspect_ratio=(decimal(spec.random_crop_min_ar), decimal(spec.random_crop_max_ar)),
        zoom_out=(decimal(spec.zoom_out_min_scale), decimal(spec.zoom_out_max_scale)),
        brightness=float(spec.brightness),
        contrast=decimal(spec.contrast),
        saturation=decimal(spec.saturation),
        hue=float(spec.hue),
        flip=decimal(spec.random_flip),
    )


def _dataset(spec: Message) -> config.Dataset:
    classes, mapping = build_mapping(spec.target_class_mapping)
    return config.Dataset(
        training=tuple(map(build_source, spec.data_sources)),
        validation=tuple(map(build_source, spec.validation_data_sources)),
        classes=classes,
        class_mapping=mapping,
        include_difficult=spec.include_difficult_in_training,
    )


def _training(spec: Message) -> config.Training:
    stopping, visualizer = spec.early_stopping, spec.visualizer
    return config.Training(
        batch_size=spec.batch_size_per_gpu,
        num_epochs=spec.num_epochs,
        learning_rate=_schedule(spec.learning_rate),
        regularizer=config.Regularizer(_REGULARIZERS[spec.regularizer.type], decimal(spec.regularizer.weight)),
        optimizer=_optimizer(spec.optimizer),
        checkpoint_interval=spec.checkpoint_interval,
        qat=config.Qat(tuple(spec.qat_config.keep_float), decimal(spec.qat_config.settle_at))
        if spec.enable_qat
        else None,
        resume_model_path=spec.resume_model_path or None,
        pretrain_model_path=spec.pretrain_model_path or None,
        pruned_model_path=spec.pruned_model_path or None,
        prefetch=spec.max_queue_size or None,
        workers=spec.n_workers or None,
        early_stopping=config.EarlyStopping(stopping.monitor, decimal(stopping.min_delta), stopping.patience)
        if spec.HasField("early_stopping")
        else None,
        visualizer=config.Visualizer(visualizer.num_images, visualizer.weight_histograms)
        if visualizer.enabled
        else None,
        model_ema=spec.model_ema,
    )


def _schedule(spec: Message) -> config.Schedule:
    name = spec.WhichOneof("learning_rate")
    rates = getattr(spec, name)
    annealing = name == "soft_start_annealing_schedule"
    return config.Schedule(
        kind="annealing" if annealing else "cosine",
        min_learning_rate=decimal(rates.min_learning_rate),
        max_learning_rate=decimal(rates.max_learning_rate),
        soft_start=decimal(rates.soft_start),
        annealing=decimal(rates.annealing) if annealing else None,
    )


def _optimizer(spec: Message) -> config.Optimizer:
    kind = spec.WhichOneof("optimizer")
    values = getattr(spec, kind)
    options = []
    for field, keyword in _OPTIMIZERS[kind].items():
        value = getattr(values, field)
        options.append((keyword, value if isinstance(value, bool) else decimal(value)))
    return config.Optimizer(kind, tuple(options))
