"""The guide's sample specs parse unchanged and mean what the guide says; so do the specs of the repository."""

from pathlib import Path

import pytest

from ssd.spec import experiment_from_text, load_conversion, load_experiment
from ssd.spec.config import (
    CocoInput,
    DataSource,
    KittiInput,
    Optimizer,
    Regularizer,
    Schedule,
)
from ssd.spec.resolve import resolve_conversion

SPECS = Path(__file__).parent.parent.parent / "specs"


def test_the_guides_experiment(guide_experiment, warnings):
    spec = experiment_from_text(guide_experiment, "guide.txt", "inference")
    five = (1.0, 2.0, 0.5, 3.0, 1 / 3)
    assert spec.random_seed == 42
    assert spec.network.name == "resnet18"
    assert spec.network.aspect_ratios == (five[:3], five, five, five, five[:3], five[:3])
    assert spec.network.boxes_per_cell == (4, 6, 6, 6, 4, 4)
    assert spec.network.scales == (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
    assert spec.network.variances == (0.1, 0.1, 0.2, 0.2)
    assert spec.network.freeze_blocks == (0,)
    assert (spec.network.dssd, spec.network.clip_boxes, spec.network.freeze_bn) == (False, False, False)
    assert (spec.network.steps, spec.network.offsets) == (None, None)
    assert spec.training.batch_size == 16
    assert spec.training.num_epochs == 80
    assert spec.training.learning_rate == Schedule("annealing", 5e-5, 2e-2, 0.15, 0.8)
    assert spec.training.regularizer == Regularizer("l1", 3e-5)
    assert spec.training.optimizer == Optimizer("sgd", (("momentum", 0.9), ("nesterov", False)))
    assert spec.training.checkpoint_interval == 1
    assert (spec.evaluation.validation_period, spec.evaluation.average_precision_mode) == (10, "SAMPLE")
    assert (spec.evaluation.batch_size, spec.evaluation.matching_iou_threshold) == (16, 0.5)
    assert (spec.nms.confidence_threshold, spec.nms.iou_threshold, spec.nms.top_k) == (0.01, 0.6, 200)
    assert (spec.augmentation.width, spec.augmentation.height, spec.augmentation.channels) == (300, 300, 3)
    assert spec.augmentation.mean == (103.9, 116.8, 123.7)
    assert spec.dataset.training == (DataSource(tfrecords="/path/to/train/tfrecord"),)
    assert spec.dataset.validation == (DataSource(image_dir="/path/to/val/images", label_dir="/path/to/val/labels"),)
    assert spec.classes == ("car", "cyclist", "pedestrian")
    assert dict(spec.dataset.class_mapping)["van"] == "car"
    assert dict(spec.dataset.class_mapping)["person_sitting"] == "pedestrian"
    assert spec.dataset.include_difficult
    assert warnings == []


def test_the_guides_experiment_trains(guide_experiment, folder, warnings):
    text = guide_experiment.replace("/path/to/train/tfrecord", str(folder / "records"))
    text = text.replace("/path/to/val/", f"{folder}/")
    (folder / "spec.txt").write_text(text)
    spec = load_experiment(folder / "spec.txt", "train")
    assert spec.dataset.training == (DataSource(tfrecords=str(folder / "records")),)
    assert spec.network.name == "resnet18"
    assert [line.split(": ")[1] for line in warnings] == [
        "augmentation_config.output_width is 300; multiples of 32 use the feature maps fully",
        "augmentation_config.output_height is 300; multiples of 32 use the feature maps fully",
    ]


def test_the_guides_kitti_conversion(guide_kitti, folder, warnings):
    for name in ("training/image_2", "training/label_2"):
        (folder / name).mkdir(parents=True)
    (folder / "spec.txt").write_text(guide_kitti.replace("/workspace/tao-experiments/data/", f"{folder}/"))
    spec = load_conversion(folder / "spec.txt")
    assert spec.source == KittiInput(
        root=f"{folder}/",
        image_dir="training/image_2",
        label_dir="training/label_2",
        image_extension=".png",
        partition_mode="random",
        num_partitions=2,
        num_shards=10,
        val_split=0.0,
        sequence_file=None,
    )
    assert spec.classes == ("car", "cyclist", "pedestrian")
    assert dict(spec.class_mapping)["truck"] == "car"
    assert spec.max_training_samples is None
    assert warnings == []
    assert resolve_conversion(spec.text, "again")[0] == spec


def test_the_guides_coco_conversion(guide_coco, folder, warnings):
    for name in ("val2017", "train2017", "annotations"):
        (folder / name).mkdir()
    for name in ("val", "train"):
        (folder / f"annotations/instances_{name}2017.json").touch()
    (folder / "spec.txt").write_text(guide_coco.replace("/workspace/tao-experiments/data/coco", str(folder)))
    spec = load_conversion(folder / "spec.txt")
    assert spec.source == CocoInput(
        root=str(folder),
        image_dirs=("val2017", "train2017"),
        annotation_files=("annotations/instances_val2017.json", "annotations/instances_train2017.json"),
        num_shards=(32, 256),
    )
    assert (spec.classes, spec.class_mapping) == ((), ())
    assert warnings == []
    assert resolve_conversion(spec.text, "again")[0] == spec


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(SPECS.rglob("*.txt")) if "convert" not in path.name],
    ids=lambda path: str(path.relative_to(SPECS)),
)
def test_the_repositorys_experiments_are_good(path, warnings):
    spec = load_experiment(path, "inference")
    assert spec.training is not None
    assert warnings == []
    assert experiment_from_text(spec.text, "again", "inference") == spec


@pytest.mark.parametrize("path", sorted(SPECS.glob("*convert*.txt")), ids=lambda path: path.name)
def test_the_repositorys_conversions_lack_nothing_but_data(path):
    from ssd.errors import InputError

    try:
        load_conversion(path)
    except InputError as error:
        lines = [line for line in str(error).splitlines() if not line.startswith("    ")]
        assert all(line.endswith("does not exist") for line in lines), lines
