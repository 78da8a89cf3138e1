# ruff: noqa: E501 - tables of cases, one a line
"""Each documented default applies where its field is absent; an explicit value, 0 too, is kept."""

import pytest

from ssd.spec import experiment_from_text
from ssd.spec.config import Qat
from ssd.spec.resolve import resolve_conversion


def get(item, path):
    for name in path.split("."):
        item = getattr(item, name)
    return item


def with_line(text: str, block: str, line: str) -> str:
    """`line` as the first of `block`."""
    head, brace, tail = text.partition(f"{block} {{")
    assert brace, block
    return f"{head}{brace} {line} {tail}"


# block, field, where the resolved spec has it, default, another value as written, as resolved
FIELDS = [
    ("", "random_seed", "random_seed", 0, "7", 7),
    ("ssd_config", "arch", "network.arch", "resnet", '"resnet"', "resnet"),
    ("ssd_config", "two_boxes_for_ar1", "network.two_boxes_for_ar1", False, "true", True),
    ("ssd_config", "clip_boxes", "network.clip_boxes", False, "true", True),
    ("ssd_config", "steps", "network.steps", None, '"[8,16,32,64,(100,50),300]"',
     ((8, 8), (16, 16), (32, 32), (64, 64), (100, 50), (300, 300))),
    ("ssd_config", "offsets", "network.offsets", None, '"[.5,.5,.5,.5,[.25,.5],1/2]"', (((0.5, 0.5),) * 4 + ((0.25, 0.5), (0.5, 0.5)))),
    ("ssd_config", "pred_num_channels", "network.pred_num_channels", 0, "256", 256),
    ("ssd_config", "alpha", "network.alpha", 1.0, "0.3", 0.3),
    ("ssd_config", "neg_pos_ratio", "network.neg_pos_ratio", 3.0, "2.5", 2.5),
    ("ssd_config", "pos_iou_thresh", "network.pos_iou_thresh", 0.5, "0.7", 0.7),
    ("ssd_config", "neg_iou_thresh", "network.neg_iou_thresh", 0.5, "0.3", 0.3),
    ("ssd_config", "freeze_blocks", "network.freeze_blocks", (), "[4, 0, 4]", (0, 4)),
    ("ssd_config", "freeze_bn", "network.freeze_bn", False, "true", True),
    ("training_config", "checkpoint_interval", "training.checkpoint_interval", 1, "5", 5),
    ("training_config", "checkpoint_interval", "training.checkpoint_interval", 1, "0", 1),
    ("training_config", "enable_qat", "training.qat", None, "true", Qat((), 0.7)),
    ("training_config", "enable_qat", "training.qat", None, "true qat_config { keep_float: 'a' keep_float: 'b_*' settle_at: 1 }",
     Qat(("a", "b_*"), 1.0)),
    ("training_config", "max_queue_size", "training.prefetch", None, "8", 8),
    ("training_config", "max_queue_size", "training.prefetch", None, "0", None),
    ("training_config", "n_workers", "training.workers", None, "3", 3),
    ("training_config", "model_ema", "training.model_ema", False, "true", True),
    ("training_config", "pretrain_model_path", "training.pretrain_model_path", None, '"model.keras"', "model.keras"),
    ("training_config", "resume_model_path", "training.resume_model_path", None, '"model.keras"', "model.keras"),
    ("training_config", "pruned_model_path", "training.pruned_model_path", None, '""', None),
    ("eval_config", "validation_period_during_training", "evaluation.validation_period", 10, "3", 3),
    ("eval_config", "average_precision_mode", "evaluation.average_precision_mode", "SAMPLE", "INTEGRATE", "INTEGRATE"),
    ("eval_config", "batch_size", "evaluation.batch_size", 4, "9", 9),
    ("eval_config", "matching_iou_threshold", "evaluation.matching_iou_threshold", 0.5, "0.75", 0.75),
    ("eval_config", "visualize_pr_curve", "evaluation.visualize_pr_curve", False, "true", True),
    ("nms_config", "confidence_threshold", "nms.confidence_threshold", 0.01, "0.3", 0.3),
    ("nms_config", "clustering_iou_threshold", "nms.iou_threshold", 0.6, "0.45", 0.45),
    ("nms_config", "top_k", "nms.top_k", 200, "100", 100),
    ("nms_config", "infer_nms_score_bits", "nms.score_bits", 0, "8", 8),
    ("augmentation_config", "random_crop_min_scale", "augmentation.crop_scale", (0.3, 1.0), "0.6", (0.6, 1.0)),
    ("augmentation_config", "random_crop_max_scale", "augmentation.crop_scale", (0.3, 1.0), "0.9", (0.3, 0.9)),
    ("augmentation_config", "random_crop_min_ar", "augmentation.crop_aspect_ratio", (0.5, 2.0), "0.7", (0.7, 2.0)),
    ("augmentation_config", "random_crop_max_ar", "augmentation.crop_aspect_ratio", (0.5, 2.0), "3", (0.5, 3.0)),
    ("augmentation_config", "zoom_out_min_scale", "augmentation.zoom_out", (1.0, 4.0), "1.5", (1.5, 4.0)),
    ("augmentation_config", "zoom_out_max_scale", "augmentation.zoom_out", (1.0, 4.0), "1", (1.0, 1.0)),
    ("augmentation_config", "brightness", "augmentation.brightness", 32.0, "0", 0.0),
    ("augmentation_config", "contrast", "augmentation.contrast", 0.5, "0", 0.0),
    ("augmentation_config", "saturation", "augmentation.saturation", 0.5, "0.0", 0.0),
    ("augmentation_config", "hue", "augmentation.hue", 18.0, "0", 0.0),
    ("augmentation_config", "random_flip", "augmentation.flip", 0.5, "0", 0.0),
    ("augmentation_config", "image_mean", "augmentation.mean", (103.939, 116.779, 123.68),
     '{ key: "b" value: 1 } image_mean { key: "g" value: 0 } image_mean { key: "r" value: 3.3 }', (1.0, 0.0, 3.3)),
    ("dataset_config", "include_difficult_in_training", "dataset.include_difficult", True, "false", False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("block", "field", "path", "default", "written", "value"), FIELDS, ids=[f"{row[1]}={row[4][:12]}" for row in FIELDS]
)
def test_absent_and_given(small, folder, block, field, path, default, written, value):
    absent = experiment_from_text(small, "spec.txt", "train")
    assert get(absent, path) == default
    line = f"{field}: {written}"
    given = experiment_from_text(with_line(small, block, line) if block else f"{line}\n{small}", "spec.txt", "train")
    assert get(given, path) == value
    assert experiment_from_text(given.text, "again", "train") == given


def test_gray_images_have_their_own_mean(small, folder):
    spec = experiment_from_text(small.replace("output_channel: 3", "output_channel: 1"), "spec.txt", "train")
    assert spec.augmentation.mean == (117.3786,)


def test_crop_and_zoom_out_off(small, folder):
    off = "random_crop_min_scale: 1 random_crop_max_scale: 1 zoom_out_min_scale: 1 zoom_out_max_scale: 1"
    spec = experiment_from_text(with_line(small, "augmentation_config", off), "spec.txt", "train")
    assert (spec.augmentation.crop_scale, spec.augmentation.zoom_out) == ((1, 1), (1, 1))


def test_the_negative_threshold_is_never_above_the_positive(small, folder):
    spec = experiment_from_text(with_line(small, "ssd_config", "pos_iou_thresh: 0.4"), "spec.txt", "train")
    assert (spec.network.pos_iou_thresh, spec.network.neg_iou_thresh) == (0.4, 0.4)


def test_even_scales(small, folder):
    text = small.replace('scales: "[0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85]"', "min_scale: 0.1 max_scale: 0.7")
    spec = experiment_from_text(text, "spec.txt", "train")
    assert spec.network.scales == pytest.approx((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7))


def test_one_list_of_ratios_is_for_every_map(small, folder):
    assert experiment_from_text(small, "spec.txt", "train").network.aspect_ratios == ((1.0, 2.0, 0.5),) * 6


@pytest.mark.parametrize(
    ("written", "kind", "options"),
    [
        ("", "sgd", {"momentum": 0.9, "nesterov": False}),
        ("optimizer { }", "sgd", {"momentum": 0.9, "nesterov": False}),
        ("optimizer { sgd { } }", "sgd", {"momentum": 0.9, "nesterov": False}),
        ("optimizer { sgd { momentum: 0 } }", "sgd", {"momentum": 0.0, "nesterov": False}),
        ("optimizer { sgd { momentum: 0.8 nesterov: true } }", "sgd", {"momentum": 0.8, "nesterov": True}),
        ("optimizer { adam { } }", "adam", {"epsilon": 1e-7, "beta_1": 0.9, "beta_2": 0.999, "amsgrad": False}),
        ("optimizer { adam { beta1: 0.8 amsgrad: true } }", "adam",
         {"epsilon": 1e-7, "beta_1": 0.8, "beta_2": 0.999, "amsgrad": True}),
        ("optimizer { rmsprop { rho: 0.95 } }", "rmsprop",
         {"rho": 0.95, "momentum": 0.0, "epsilon": 1e-7, "centered": False}),
    ],
)  # fmt: skip
def test_optimizers(small, folder, written, kind, options):
    spec = experiment_from_text(with_line(small, "training_config", written), "spec.txt", "train")
    assert spec.training.optimizer.kind == kind
    assert dict(spec.training.optimizer.options) == options


def test_the_cosine_schedule(small, folder):
    head, _, tail = small.partition("soft_start_annealing_schedule {")
    tail = tail.replace("annealing: 0.7", "", 1)
    spec = experiment_from_text(f"{head}soft_start_cosine_annealing_schedule {{{tail}", "spec.txt", "train")
    schedule = spec.training.learning_rate
    assert (schedule.kind, schedule.min_learning_rate, schedule.max_learning_rate) == ("cosine", 1e-4, 1e-2)
    assert (schedule.soft_start, schedule.annealing) == (0.1, None)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", None),
        ("visualizer { }", None),
        ("visualizer { enabled: false num_images: 5 }", None),
        ("visualizer { enabled: true }", (3, False)),
        ("visualizer { enabled: true num_images: 0 weight_histograms: true }", (0, True)),
    ],
)
def test_the_visualizer(small, folder, written, expected):
    visualizer = experiment_from_text(with_line(small, "training_config", written), "x", "train").training.visualizer
    assert (visualizer and (visualizer.num_images, visualizer.weight_histograms)) == expected


def test_early_stopping(small, folder):
    written = "early_stopping { monitor: 'val_loss' patience: 4 }"
    stopping = experiment_from_text(with_line(small, "training_config", written), "x", "train").training.early_stopping
    assert (stopping.monitor, stopping.min_delta, stopping.patience) == ("validation_loss", 0.0, 4)


def test_evaluation_without_training_config(small, folder):
    head, _, tail = small.partition("training_config {")
    text = head + tail[tail.index("eval_config") :]
    spec = experiment_from_text(text, "spec.txt", "evaluate")
    assert spec.training is None
    assert spec.evaluation.batch_size == 16


@pytest.mark.parametrize("verb", ["inference", "prune", "export"])
def test_inference_needs_no_data_and_no_evaluation(small, verb):
    spec = experiment_from_text(small.replace("eval_config { }", ""), "spec.txt", verb)
    assert spec.evaluation.average_precision_mode == "SAMPLE"


def test_kitti_conversion(small_kitti, folder):
    source = resolve_conversion(small_kitti, "spec.txt")[0].source
    assert (source.partition_mode, source.num_partitions, source.num_shards) == ("random", 2, 10)
    assert (source.val_split, source.image_extension, source.sequence_file) == (20.0, ".png", None)
    zero = resolve_conversion(with_line(small_kitti, "kitti_config", "val_split: 0"), "spec.txt")[0]
    assert zero.source.val_split == 0.0
    (folder / "sequences.json").touch()
    sequence = "partition_mode: 'sequence' num_partitions: 5 kitti_sequence_to_frames_file: 'sequences.json'"
    source = resolve_conversion(with_line(small_kitti, "kitti_config", sequence), "spec.txt")[0].source
    assert (source.partition_mode, source.num_partitions) == ("sequence", 5)
    assert source.sequence_file == "sequences.json"


def test_coco_conversion(small_coco, folder):
    assert resolve_conversion(small_coco, "spec.txt")[0].source.num_shards == (10, 10)
    one = resolve_conversion(with_line(small_coco, "coco_config", "num_shards: 3"), "spec.txt")[0]
    assert one.source.num_shards == (3, 3)


def test_the_root_may_stand_at_the_top(small_kitti, folder):
    text = small_kitti.replace('root_directory_path: "."', "") + f'image_directory_path: "{folder}"'
    assert resolve_conversion(text, "spec.txt")[0].source.root == str(folder)


def test_at_most_so_many_training_samples(small_kitti, folder):
    spec, warnings = resolve_conversion(small_kitti + "sample_modifier_config { max_training_samples: 7 }", "spec.txt")
    assert spec.max_training_samples == 7
    assert warnings == []
