# ruff: noqa: E501 - tables of cases, one a line
"""Specs that are wrong: one clear line for each problem, with its line, its field and what is allowed."""

import pytest

from ssd.errors import InputError, Problems
from ssd.spec import experiment_from_text, load_conversion, load_experiment

SCALES = 'scales: "[0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85]"'
RATIOS = 'aspect_ratios_global: "[1.0, 2.0, 0.5]"'
VARIANCES = 'variances: "[0.1, 0.1, 0.2, 0.2]"'
SCHEDULE = "training_config.learning_rate.soft_start_annealing_schedule"
TRAINING_FOLDERS = 'image_directory_path: "images"\n    label_directory_path: "labels"'
VALIDATION = 'tfrecords_path: "records/val"'
CAR = 'target_class_mapping { key: "car" value: "car" }'


def problems(error: InputError) -> list[InputError]:
    return error.problems if isinstance(error, Problems) else [error]


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


# name: what is replaced, by what, what stands in the reported line, the message
EXPERIMENTS = {
    "six scales": (SCALES, 'scales: "[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]"', "scales",
        "ssd_config.scales has 6 values, 7 are needed: one per feature map and one more for the last map's second"),
    "a scale beyond 1": (SCALES, 'scales: "[0.05, 0.1, 0.25, 0.4, 0.55, 1.1, 1.2]"', "scales",
        "ssd_config.scales has the value 1.1, allowed: at most 1, but for the last"),
    "a negative scale": (SCALES, 'scales: "[-0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85]"', "scales",
        "ssd_config.scales has the value -0.05, allowed: more than 0"),
    "scales are no list": (SCALES, 'scales: "0.5"', "scales", "ssd_config.scales is a number, needed: one per feature"),
    "scales are code": (SCALES, 'scales: "__import__(\'os\').getcwd()"', "scales",
        "ssd_config.scales is no list of numbers: unexpected '__import__' at character 1"),
    "scales are not closed": (SCALES, 'scales: "[0.05, 0.1"', "scales", "',' or ']' is missing after the value at character 11"),
    "no scales": (SCALES, "", "ssd_config", "ssd_config has neither scales nor min_scale and max_scale"),
    "half of the scale range": (SCALES, "min_scale: 0.1", "ssd_config", "ssd_config.max_scale is missing"),
    "scale range upside down": (SCALES, "max_scale: 0.1 min_scale: 0.5", "min_scale",
        "ssd_config.min_scale is 0.5 and max_scale 0.1, allowed: 0 < min_scale <= max_scale"),
    "scale range too wide": (SCALES, "min_scale: 0.1 max_scale: 2", "max_scale", "ssd_config.max_scale is 2.0, too large"),
    "no ratios": (RATIOS, "", "ssd_config", "ssd_config has neither aspect_ratios nor aspect_ratios_global"),
    "five lists of ratios": (RATIOS, 'aspect_ratios: "[[1], [1], [1], [1], [1]]"', "aspect_ratios",
        "ssd_config.aspect_ratios has 5 values, 6 are needed: a list of aspect ratios for each feature map"),
    "ratios without their lists": (RATIOS, 'aspect_ratios: "[1, 2, 3, 4, 5, 6]"', "aspect_ratios",
        "ssd_config.aspect_ratios is a number, needed: a list of aspect ratios"),
    "an empty list of ratios": (RATIOS, 'aspect_ratios: "[[1], [1], [], [1], [1], [1]]"', "aspect_ratios",
        "ssd_config.aspect_ratios is empty, needed: a list of aspect ratios"),
    "lists where ratios are wanted": (RATIOS, 'aspect_ratios_global: "[[1, 2]]"', "aspect_ratios_global",
        "ssd_config.aspect_ratios_global has a list where a number is needed: [1, 2]"),
    "a ratio of 0": (RATIOS, 'aspect_ratios_global: "[1, 0]"', "aspect_ratios_global", "has the value 0, allowed: more than 0"),
    "ratio 1 twice": (RATIOS, 'aspect_ratios_global: "[1, 2, 1.0]"', "aspect_ratios_global", "has the ratio 1 twice"),
    "no variances": (VARIANCES, "", "ssd_config", "ssd_config.variances is missing: four positive numbers"),
    "three variances": (VARIANCES, 'variances: "[0.1, 0.1, 0.2]"', "variances", "has 3 values, 4 are needed"),
    "a variance of 0": (VARIANCES, 'variances: "[0.1, 0.1, 0.2, 0]"', "variances", "has the value 0, allowed: more than 0"),
    "steps of three": (RATIOS, RATIOS + 'steps: "[8, [1, 2, 3], 32, 64, 100, 300]"', "steps",
        "ssd_config.steps has [1, 2, 3], needed is a number or a pair [vertical, horizontal]"),
    "an offset of 1": (RATIOS, RATIOS + 'offsets: "[.5, .5, .5, .5, .5, 1]"', "offsets",
        "ssd_config.offsets has the value 1, allowed: more than 0 and less than 1"),
    "an unknown arch": ("nlayers: 10", 'arch: "alexnet"', "arch",
        "ssd_config.arch is 'alexnet', allowed: resnet, vgg, darknet, googlenet, mobilenet_v1, mobilenet_v2"),
    "efficientnet_b1": ("nlayers: 10", 'arch: "efficientnet_b1"', "arch", "ssd_config.arch is 'efficientnet_b1', allowed:"),
    "a depth that is not": ("nlayers: 10", "nlayers: 20", "nlayers", "ssd_config.nlayers is 20, allowed for resnet: 10, 18, 34, 50, 101"),
    "no depth": ("nlayers: 10", "", "ssd_config", "ssd_config.nlayers is missing, allowed for resnet: 10, 18, 34, 50, 101"),
    "the wrong family's depth": ("nlayers: 10", 'nlayers: 18 arch: "vgg"', "nlayers", "nlayers is 18, allowed for vgg: 16, 19"),
    "a block that is not": ("nlayers: 10", "nlayers: 10\nfreeze_blocks: 0\nfreeze_blocks: 5", "freeze_blocks: 5",
        "ssd_config.freeze_blocks[1] is 5, allowed for resnet: 0 to 4"),
    "prediction channels": ("nlayers: 10", "nlayers: 10 pred_num_channels: 128", "nlayers",
        "ssd_config.pred_num_channels is 128, allowed: 256, 512, 1024, or 0"),
    "alpha of 0": ("nlayers: 10", "nlayers: 10 alpha: 0", "alpha", "ssd_config.alpha is 0.0, allowed: more than 0"),
    "negative ratio": ("nlayers: 10", "nlayers: 10 neg_pos_ratio: -1", "nlayers", "neg_pos_ratio is -1.0, allowed: more than 0"),
    "thresholds upside down": ("nlayers: 10", "nlayers: 10 neg_iou_thresh: 0.6", "nlayers",
        "ssd_config.neg_iou_thresh is 0.6, allowed: at most pos_iou_thresh, 0.5"),
    "a batch of 0": ("batch_size_per_gpu: 4", "batch_size_per_gpu: 0", "batch_size_per_gpu",
        "training_config.batch_size_per_gpu is 0, allowed: more than 0"),
    "no epochs": ("num_epochs: 2", "", "training_config", "training_config.num_epochs is missing, allowed: more than 0"),
    "no schedule": ("soft_start_annealing_schedule", "soft_start_cosine_annealing_schedule", "annealing: 0.7",
        "annealing is no field of training_config.learning_rate.soft_start_cosine_annealing_schedule"),
    "soft start of 0": ("soft_start: 0.1", "soft_start: 0", "soft_start: 0", f"{SCHEDULE}.soft_start is 0.0, allowed: more than 0 and"),
    "soft start after annealing": ("soft_start: 0.1", "soft_start: 0.7", "soft_start: 0.7",
        f"{SCHEDULE}.soft_start is 0.7, allowed: less than annealing, 0.7"),
    "learning rates upside down": ("min_learning_rate: 1e-4", "min_learning_rate: 0.1", "min_learning_rate",
        f"{SCHEDULE}.min_learning_rate is 0.1, allowed: at most max_learning_rate, 0.01"),
    "a learning rate of 0": ("min_learning_rate: 1e-4", "min_learning_rate: 0", "min_learning_rate",
        f"{SCHEDULE}.min_learning_rate is 0.0, allowed: more than 0"),
    "no regularizer": ("regularizer { type: NO_REG }", "", "training_config", "regularizer is missing, allowed types: NO_REG, L1, L2"),
    "a regularizer without weight": ("type: NO_REG", "type: L1", "regularizer", "training_config.regularizer.weight is missing, allowed"),
    "a heavy regularizer": ("type: NO_REG", "type: L2 weight: 1", "type: L2", "regularizer.weight is 1.0, allowed: more than 0 and less than 1"),
    "momentum": ("num_epochs: 2", "num_epochs: 2 optimizer { sgd { momentum: 1 } }", "sgd",
        "training_config.optimizer.sgd.momentum is 1.0, allowed: from 0, less than 1"),
    "beta": ("num_epochs: 2", "num_epochs: 2 optimizer { adam { beta2: 1.5 } }", "adam", "optimizer.adam.beta2 is 1.5, allowed:"),
    "two optimizers": ("num_epochs: 2", "num_epochs: 2 optimizer { adam { } sgd { } }", "sgd", "sgd and training_config.optimizer.adam"),
    "early stopping on nothing": ("num_epochs: 2", "num_epochs: 2 early_stopping { patience: 3 }", "early_stopping",
        "training_config.early_stopping.monitor is missing, allowed: loss, validation_loss"),
    "early stopping on mAP": ("num_epochs: 2", "num_epochs: 2 early_stopping { monitor: 'mAP' }", "monitor",
        "training_config.early_stopping.monitor is 'mAP', allowed: loss, validation_loss"),
    "early stopping without validation": (VALIDATION + "\n  }\n", "}\n early_stopping { }", "early_stopping",
        "early_stopping is no field of dataset_config"),
    "a model that is not there": ("num_epochs: 2", 'num_epochs: 2 pretrain_model_path: "no/such.keras"', "pretrain_model_path",
        "training_config.pretrain_model_path 'no/such.keras' does not exist"),
    "a model that is a folder": ("num_epochs: 2", 'num_epochs: 2 pruned_model_path: "images"', "pruned_model_path",
        "training_config.pruned_model_path 'images' is a folder, a file is needed"),
    "validation period of 0": ("eval_config { }", "eval_config { validation_period_during_training: 0 }", "eval_config",
        "eval_config.validation_period_during_training is 0, allowed: more than 0"),
    "matching IoU": ("eval_config { }", "eval_config { matching_iou_threshold: 1 }", "eval_config", "is 1.0, allowed: more than 0 and less than 1"),
    "confidence": ("nms_config { }", "nms_config { confidence_threshold: 0 }", "nms_config",
        "nms_config.confidence_threshold is 0.0, allowed: more than 0 and less than 1"),
    "NMS IoU by its other name": ("nms_config { }", "nms_config { cluster_iou_threshold: 1.2 }", "nms_config",
        "nms_config.clustering_iou_threshold is 1.2, allowed: more than 0 and less than 1"),
    "top_k of 0": ("nms_config { }", "nms_config { top_k: 0 }", "nms_config", "nms_config.top_k is 0, allowed: more than 0"),
    "no nms_config": ("nms_config { }", "", None, "nms_config is missing: train needs it"),
    "no network": ("ssd_config {", "training_config {", "nlayers", "nlayers is no field of training_config"),
    "a small image": ("output_width: 128", "output_width: 96", "output_width", "augmentation_config.output_width is 96, allowed: 128 or more"),
    "no height": ("output_height: 160", "", "augmentation_config", "augmentation_config.output_height is missing, allowed: 128 or more"),
    "four channels": ("output_channel: 3", "output_channel: 4", "output_channel", "augmentation_config.output_channel is 4, allowed: 1 or 3"),
    "crop upside down": ("output_width: 128", "output_width: 128 random_crop_max_scale: 0.2", "output_width",
        "augmentation_config.random_crop_max_scale is 0.2, allowed: at least random_crop_min_scale, 0.3"),
    "zoom-out upside down": ("output_width: 128", "zoom_out_max_scale: 2 output_width: 128\nzoom_out_min_scale: 3", "zoom_out_min_scale",
        "augmentation_config.zoom_out_min_scale is 3.0, allowed: at most zoom_out_max_scale, 2.0"),
    "crop beyond the image": ("output_width: 128", "output_width: 128 random_crop_max_scale: 1.5", "output_width",
        "augmentation_config.random_crop_max_scale is 1.5, allowed: more than 0, at most 1"),
    "zoom-out below 1": ("output_width: 128", "output_width: 128 zoom_out_min_scale: 0.5", "output_width",
        "augmentation_config.zoom_out_min_scale is 0.5, allowed: 1 or more"),
    "brightness": ("output_width: 128", "output_width: 128 brightness: -1", "output_width", "brightness is -1, allowed: 0 to 255"),
    "contrast": ("output_width: 128", "output_width: 128 contrast: 1", "output_width", "contrast is 1.0, allowed: from 0, less than 1"),
    "a mean without red": ("output_width: 128", 'output_width: 128 image_mean { key: "b" value: 1 } image_mean { key: "g" value: 1 }',
        "output_width", "augmentation_config.image_mean has no r, needed with output_channel 3: b, g, r"),
    "a mean by another name": ("output_width: 128", 'output_width: 128 image_mean { key: "blue" value: 1 }', "output_width",
        'augmentation_config.image_mean["blue"] is no colour, allowed keys: b, g, r'),
    "a mean out of range": ("output_channel: 3", 'output_channel: 1 image_mean { key: "l" value: 256 }', "image_mean",
        'augmentation_config.image_mean["l"] is 256, allowed: 0 to 255'),
    "no classes": (CAR, "", "dataset_config", "dataset_config.target_class_mapping is missing"),
    "a class without a name": (CAR, 'target_class_mapping { key: "car" }', "target_class_mapping",
        'dataset_config.target_class_mapping["car"] has no value'),
    "a class from nothing": (CAR, 'target_class_mapping { value: "car" }', "target_class_mapping",
        'dataset_config.target_class_mapping[""] has no key'),
    "a class mapped twice": (CAR, CAR + '\ntarget_class_mapping { key: "CAR" value: "bus" }', '"car"',
        'dataset_config.target_class_mapping["car"] maps to'),
    "no training data": (f"data_sources {{\n    {TRAINING_FOLDERS}\n  }}", "", "dataset_config",
        "dataset_config.data_sources is missing: train needs labelled images"),
    "an empty source": (TRAINING_FOLDERS, "", "data_sources", "dataset_config.data_sources[0] is empty, needed: tfrecords_path, or"),
    "images without labels": ('label_directory_path: "labels"', "", "data_sources",
        "dataset_config.data_sources[0].label_directory_path is missing: it goes together with image_directory_path"),
    "a folder that is not there": ('"images"', '"~/no such/images"', "image_directory_path", "no such/images' does not exist"),
    "a folder that is a file": ('"images"', '"val.json"', "image_directory_path", "'val.json' is a file, a folder is needed"),
    "records that are not there": (VALIDATION, 'tfrecords_path: "records/train-*"', "tfrecords_path",
        "dataset_config.validation_data_sources[0].tfrecords_path 'records/train-*' matches no file"),
    "a path with a NUL": (VALIDATION, 'tfrecords_path: "records\\000"', "tfrecords_path", "matches no file"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "place", "message"), EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_experiments(small, folder, old, new, place, message):
    assert old in small
    text = small.replace(old, new, 1)
    (folder / "bad.txt").write_text(text)
    with pytest.raises(InputError) as caught:
        load_experiment("bad.txt", "train")
    assert caught.value.exit_code == 2
    (found,) = [problem for problem in problems(caught.value) if message in problem.message]
    where = f"bad.txt:{line_of(text, place)}" if place else "bad.txt"
    assert found.where == where or found.where.startswith(f"{where}:")
    assert "\n" not in found.message
    assert str(found).startswith(f"{found.where}: ")


CONVERSIONS = {
    "no root": ('root_directory_path: "."', "", "kitti_config", "kitti_config.root_directory_path is missing"),
    "no images": ('image_dir_name: "images"', "", "kitti_config", "kitti_config.image_dir_name is missing"),
    "labels that are not there": ('"labels"', '"labells"', "label_dir_name", "'./labells' does not exist"),
    "another mode": ("kitti_config {", "kitti_config {\npartition_mode: 'shuffled'", "partition_mode",
        "kitti_config.partition_mode is 'shuffled', allowed: random, sequence"),
    "three random partitions": ("kitti_config {", "kitti_config {\nnum_partitions: 3", "num_partitions",
        "kitti_config.num_partitions is 3, allowed with partition_mode random: 2"),
    "no sequences": ("kitti_config {", "kitti_config {\npartition_mode: 'sequence'", "kitti_config",
        "kitti_config.kitti_sequence_to_frames_file is missing: partition_mode sequence needs it"),
    "a split above 100": ("kitti_config {", "kitti_config {\nval_split: 101", "val_split", "val_split is 101.0, allowed: 0 to 100"),
    "a negative split": ("kitti_config {", "kitti_config {\nval_split: -0.5", "val_split", "val_split is -0.5, allowed: 0 to 100"),
    "no shards": ("kitti_config {", "kitti_config {\nnum_shards: 0", "num_shards", "kitti_config.num_shards is 0, allowed: 1 or more"),
    "an extension": ("kitti_config {", "kitti_config {\nimage_extension: 'webp'", "image_extension",
        "kitti_config.image_extension is '.webp', allowed: .png, .jpg, .jpeg, .bmp"),
    "both kinds": ("target_class_mapping", "coco_config { }\ntarget_class_mapping", "coco_config", "coco_config and kitti_config (line 1)"),
    "neither kind": ("kitti_config {", "sample_modifier_config {", "root_directory_path", "root_directory_path is no field of"),
    "a training field": ("kitti_config {", "random_seed: 3\nkitti_config {", "random_seed", "random_seed is no field of the spec"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "place", "message"), CONVERSIONS.values(), ids=CONVERSIONS)
def test_kitti_conversions(small_kitti, folder, old, new, place, message):
    check_conversion(small_kitti, old, new, place, message)


COCO = {
    "more annotations than folders": ('["images", "images"]', '"images"', "img_dir_names",
        "coco_config.img_dir_names has 1 entries and annotation_files 2"),
    "partitions": ("coco_config {", "coco_config {\nnum_partitions: 3", "num_partitions",
        "coco_config.num_partitions is 3, allowed: the number of annotation_files, 2"),
    "shards": ("coco_config {", "coco_config {\nnum_shards: [1, 2, 3]", "num_shards",
        "coco_config.num_shards has 3 entries, allowed: 1, or one per partition, 2"),
    "a shard count of 0": ("coco_config {", "coco_config {\nnum_shards: [4, 0]", "num_shards", "num_shards[1] is 0, allowed: 1 or more"),
    "annotations that are not there": ('"val.json"', '"vall.json"', "annotation_files", "annotation_files[0] './vall.json' does not exist"),
    "no annotations": ('annotation_files: ["val.json", "train.json"]', "", "coco_config", "coco_config.annotation_files is missing"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "place", "message"), COCO.values(), ids=COCO)
def test_coco_conversions(small_coco, folder, old, new, place, message):
    check_conversion(small_coco, old, new, place, message)


def check_conversion(text, old, new, place, message):
    assert old in text
    text = text.replace(old, new, 1)
    with open("bad.txt", "w") as file:
        file.write(text)
    with pytest.raises(InputError) as caught:
        load_conversion("bad.txt")
    assert caught.value.exit_code == 2
    (found,) = [problem for problem in problems(caught.value) if message in problem.message]
    where = f"bad.txt:{line_of(text, place)}"
    assert found.where == where or found.where.startswith(f"{where}:")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt: no such file"),
        ("no/folder/spec.txt", None, "there is no folder no/folder either"),
        ("images", None, "images: is a folder, a spec file is needed"),
        ("model.txt", b"PK\x03\x04\0\0", "model.txt: is no text file; a spec is prototxt in UTF-8"),
        ("utf16.txt", "random_seed: 1".encode("utf-16"), "utf16.txt: is no"),
        ("latin.txt", b"random_seed: 1\n# caf\xe9\n", "latin.txt:2: is not UTF-8 text: byte 0xe9 cannot be read"),
        ("empty.txt", b"", "empty.txt: is empty, needed is an experiment spec"),
        ("blank.txt", b"\n # just this\n", "blank.txt: is empty"),
        ("huge.txt", b"#" * (4 * 2**20 + 1), "huge.txt: is no text file"),
        ("convert.txt", b"kitti_config { }", "convert.txt: is a dataset_convert spec"),
        ("config.json", b'{"random_seed": 1}', "config.json:1:1: a field name is needed, not '{'"),
        ("nul\0.txt", None, "embedded null byte"),
    ],
)
def test_files_that_are_no_spec(folder, name, content, message):
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_experiment(name, "train")
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_misspelt_file_name_shows_its_neighbour(folder):
    (folder / "train_spec.txt").touch()
    with pytest.raises(InputError, match=r"near it: train_spec\.txt"):
        load_experiment("train_spce.txt", "train")


def test_a_byte_order_mark_is_no_error(small, folder):
    (folder / "spec.txt").write_bytes(b"\xef\xbb\xbf" + small.encode())
    assert load_experiment("spec.txt", "train").network.name == "resnet10"


def test_all_problems_are_reported_at_once(small, folder):
    changes = {SCALES: 'scales: "[1]"', "nlayers: 10": "nlayers: 11", "num_epochs: 2": "num_epochs: 0",
               "output_width: 128": "output_width: 1", '"labels"': '"lables"', "nms_config { }": "nms_config { top_k: 0 }"}  # fmt: skip
    for old, new in changes.items():
        small = small.replace(old, new)
    with pytest.raises(Problems) as caught:
        experiment_from_text(small, "bad.txt", "train")
    fields = sorted(problem.message.split(" ")[0] for problem in caught.value.problems)
    assert fields == [
        "augmentation_config.output_width",
        "dataset_config.data_sources[0].label_directory_path",
        "nms_config.top_k",
        "ssd_config.nlayers",
        "ssd_config.scales",
        "training_config.num_epochs",
    ]
    assert all(line.startswith(("bad.txt:", "    ")) for line in str(caught.value).splitlines())


@pytest.mark.parametrize(
    ("verb", "missing"),
    [
        (
            "train",
            ["ssd_config", "training_config", "eval_config", "nms_config", "augmentation_config", "dataset_config"],
        ),
        ("evaluate", ["ssd_config", "eval_config", "nms_config", "augmentation_config", "dataset_config"]),
        ("inference", ["ssd_config", "nms_config", "augmentation_config", "dataset_config"]),
        ("export", ["ssd_config", "nms_config", "augmentation_config", "dataset_config"]),
        ("prune", ["ssd_config", "augmentation_config", "dataset_config"]),
    ],
)
def test_blocks_that_a_verb_needs(verb, missing):
    with pytest.raises(InputError) as caught:
        experiment_from_text("random_seed: 1", "bad.txt", verb)
    assert [problem.message.split(" ")[0] for problem in problems(caught.value)] == missing


def test_evaluation_needs_validation_data_and_no_training_data(small, folder):
    spec = experiment_from_text(small.replace('"images"', '"gone"'), "spec.txt", "evaluate")
    assert spec.dataset.training[0].image_dir == "gone"
    with pytest.raises(InputError, match="validation_data_sources is missing: evaluate needs labelled images"):
        experiment_from_text(small.replace(VALIDATION, ""), "spec.txt", "evaluate")


def test_stopping_on_validation_loss_needs_validation_data(small, folder):
    text = small.replace("num_epochs: 2", "num_epochs: 2 early_stopping { monitor: 'validation_loss' }")
    assert experiment_from_text(text, "spec.txt", "train").training.early_stopping
    with pytest.raises(InputError, match=r"is validation_loss, which needs dataset_config\.valid"):
        experiment_from_text(text.replace(VALIDATION, ""), "spec.txt", "train")


def test_what_cannot_be_read_hides_no_wrong_value_and_makes_nothing_missing(small, folder):
    text = (
        small.replace("nlayers: 10", "nlayers: ten")
        .replace('scales: "[0.05,', 'scales: "[2,')
        .replace("variances", "varianes")
    )
    (folder / "bad.txt").write_text(text)
    with pytest.raises(InputError) as caught:
        load_experiment("bad.txt", "train")
    said = str(caught.value)
    assert all(part in said for part in ("not 'ten'", "varianes is no field", "ssd_config.scales")), said
    assert "missing" not in said
