"""The dataset_convert spec: its checks and its resolved form."""

import os

from google.protobuf.message import Message

from ssd.spec.config import CocoInput, Conversion, KittiInput
from ssd.spec.datasets import build_mapping, check_file, check_folder, check_mapping
from ssd.spec.messages import decimal, walk
from ssd.spec.source import Findings
from ssd.spec.validate import AT_LEAST_1, between, check_values

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp")
RULES = {"KITTIConfig": {"num_partitions": AT_LEAST_1, "num_shards": AT_LEAST_1, "val_split": between(0, 100)}}


def check_root(spec: Message, findings: Findings) -> None:
    """Says when image_directory_path is not the root that is used; before defaults are filled in."""
    kind = spec.WhichOneof("convert_config_type")
    if kind is None or not spec.HasField("image_directory_path"):
        return
    config = getattr(spec, kind)
    same = os.path.normpath(config.root_directory_path) == os.path.normpath(spec.image_directory_path)
    if config.HasField("root_directory_path") and not same:
        text = f"has no effect: {kind}.root_directory_path, {config.root_directory_path!r}, is given"
        findings.warn("image_directory_path", text)


def check_conversion(spec: Message, findings: Findings) -> None:
    """Finds all problems of a filled dataset_convert spec."""
    kind = spec.WhichOneof("convert_config_type")
    for block, path in walk(spec):
        check_values(block, path, findings, RULES)
    if kind is None:
        findings.absent("kitti_config", "is missing: dataset_convert needs kitti_config or coco_config")
    elif not getattr(spec, kind).HasField("root_directory_path"):
        findings.absent(f"{kind}.root_directory_path", "is missing: the folder of the dataset is needed")
    elif kind == "kitti_config":
        _check_kitti(spec.kitti_config, findings)
    else:
        _check_coco(spec.coco_config, findings)
    check_mapping(spec.target_class_mapping, "target_class_mapping", findings)


def build_conversion(spec: Message, text: str) -> Conversion:
    """The resolved form of a spec in which check_conversion found nothing wrong."""
    kitti = spec.WhichOneof("convert_config_type") == "kitti_config"
    classes, mapping = build_mapping(spec.target_class_mapping)
    return Conversion(
        source=_build_kitti(spec.kitti_config) if kitti else _build_coco(spec.coco_config),
        classes=classes,
        class_mapping=mapping,
        max_training_samples=spec.sample_modifier_config.max_training_samples or None,
        text=text,
    )


def _build_kitti(config: Message) -> KittiInput:
    return KittiInput(
        root=config.root_directory_path,
        image_dir=config.image_dir_name,
        label_dir=config.label_dir_name,
        image_extension=config.image_extension,
        partition_mode=config.partition_mode,
        num_partitions=config.num_partitions,
        num_shards=config.num_shards,
        val_split=decimal(config.val_split),
        sequence_file=config.kitti_sequence_to_frames_file or None,
    )


def _build_coco(config: Message) -> CocoInput:
    return CocoInput(
        root=config.root_directory_path,
        image_dirs=tuple(config.img_dir_names),
        annotation_files=tuple(config.annotation_files),
        num_shards=tuple(config.num_shards),
    )


def _check_kitti(config: Message, findings: Findings) -> None:
    path = "kitti_config"
    root = config.root_directory_path
    for name in ("image_dir_name", "label_dir_name"):
        if config.HasField(name):
            check_folder(os.path.join(root, getattr(config, name)), f"{path}.{name}", findings)
        else:
            findings.absent(f"{path}.{name}", "is missing: a folder below root_directory_path is needed")
    extension = config.image_extension
    if not extension.startswith("."):
        config.image_extension = extension = f".{extension}"
    if extension.lower() not in IMAGE_EXTENSIONS:
        findings.wrong(f"{path}.image_extension", f"is {extension!r}, allowed: {', '.join(IMAGE_EXTENSIONS)}")
    if config.partition_mode == "random":
        if config.num_partitions != 2:
            text = f"is {config.num_partitions}, allowed with partition_mode random: 2 (validation and training)"
            findings.wrong(f"{path}.num_partitions", text)
        _unused(config, "kitti_sequence_to_frames_file", findings)
    elif config.partition_mode == "sequence":
        file = "kitti_sequence_to_frames_file"
        if config.HasField(file):
            check_file(os.path.join(root, getattr(config, file)), f"{path}.{file}", findings)
        else:
            findings.absent(f"{path}.{file}", "is missing: partition_mode sequence needs it")
        _unused(config, "val_split", findings)
    else:
        findings.wrong(f"{path}.partition_mode", f"is {config.partition_mode!r}, allowed: random, sequence")


def _unused(config: Message, name: str, findings: Findings) -> None:
    if config.HasField(name):
        findings.warn(f"kitti_config.{name}", f"has no effect with partition_mode {config.partition_mode}")
        config.ClearField(name)


def _check_coco(config: Message, findings: Findings) -> None:
    path = "coco_config"
    root = config.root_directory_path
    count = len(config.annotation_files)
    if not count:
        findings.absent(f"{path}.annotation_files", "is missing: a JSON file for each partition is needed")
    if len(config.img_dir_names) != count:
        text = f"has {len(config.img_dir_names)} entries and annotation_files {count}: one each per partition is needed"
        findings.wrong(f"{path}.img_dir_names", text)
    if config.num_partitions != count:
        text = f"is {config.num_partitions}, allowed: the number of annotation_files, {count}"
        findings.wrong(f"{path}.num_partitions", text)
    if len(config.num_shards) not in (1, count):
        text = f"has {len(config.num_shards)} entries, allowed: 1, or one per partition, {count}"
        findings.wrong(f"{path}.num_shards", text)
    for index, shards in enumerate(config.num_shards):
        if shards < 1:
            findings.wrong(f"{path}.num_shards[{index}]", f"is {shards}, allowed: {AT_LEAST_1.text}")
    for index, folder in enumerate(config.img_dir_names):
        check_folder(os.path.join(root, folder), f"{path}.img_dir_names[{index}]", findings)
    for index, file in enumerate(config.annotation_files):
        check_file(os.path.join(root, file), f"{path}.annotation_files[{index}]", findings)
