"""What both kinds of spec say about data: class mappings, folders, files."""

import glob
import os

from google.protobuf.message import Message

from ssd.spec.config import DataSource, class_key
from ssd.spec.source import Findings


def check_mapping(mapping, path: str, findings: Findings) -> None:
    """Finds problems of a target_class_mapping and gives each target class one spelling in it."""
    sources: dict[str, str] = {}
    spellings: dict[str, str] = {}
    for source, target in sorted(mapping.items()):
        where = f'{path}["{source}"]'
        if not class_key(source):
            findings.wrong(where, "has no key: the name of a class in the labels is needed")
            continue
        if not class_key(target):
            findings.wrong(where, "has no value: the name of a target class is needed")
            continue
        other = sources.setdefault(class_key(source), source)
        if class_key(mapping[other]) != class_key(target):
            findings.wrong(
                where, f"maps to {target!r} and {other!r} to {mapping[other]!r}: names are compared without case"
            )
        spelling = spellings.setdefault(class_key(target), target.strip())
        if spelling != target.strip():
            findings.warn(where, f"maps to {target!r}, the same class as {spelling!r}, which is its name from here on")
        mapping[source] = spelling


def build_mapping(mapping) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Target classes in index order, and (normalised source name, target class) sorted."""
    classes = tuple(sorted(set(mapping.values()), key=lambda name: (name.lower(), name)))
    return classes, tuple(sorted({class_key(source): target for source, target in mapping.items()}.items()))


def clean_source(source: Message, path: str, findings: Findings) -> None:
    """Joins root_path to relative paths, and warns where tfrecords_path leaves the folders unused."""
    root = source.root_path
    source.ClearField("root_path")
    names = ("tfrecords_path", "image_directory_path", "label_directory_path")
    for name in names:
        if source.HasField(name):
            setattr(source, name, os.path.join(root, getattr(source, name)))
    if source.HasField("tfrecords_path"):
        for name in names[1:]:
            if source.HasField(name):
                findings.warn(f"{path}.{name}", "has no effect: tfrecords_path is given too")
                source.ClearField(name)


def is_complete(source: Message) -> bool:
    return source.HasField("tfrecords_path") or (
        source.HasField("image_directory_path") and source.HasField("label_directory_path")
    )


def is_blank(source: Message) -> bool:
    return not source.ListFields()


def check_source(source: Message, path: str, findings: Findings) -> None:
    """Finds what is missing in a data source, in the spec or on the disk."""
    if is_blank(source):
        findings.absent(path, "is empty, needed: tfrecords_path, or image_directory_path and label_directory_path")
    elif not is_complete(source):
        image, label = "image_directory_path", "label_directory_path"
        missing, present = (label, image) if source.HasField(image) else (image, label)
        findings.absent(f"{path}.{missing}", f"is missing: it goes together with {present}")
    elif source.HasField("tfrecords_path"):
        if not matches(source.tfrecords_path):
            text = f"{source.tfrecords_path!r} matches no file"
            findings.wrong(f"{path}.tfrecords_path", text, "a file, a folder, a prefix or a pattern with * is needed")
    else:
        check_folder(source.image_directory_path, f"{path}.image_directory_path", findings)
        check_folder(source.label_directory_path, f"{path}.label_directory_path", findings)


def build_source(source: Message) -> DataSource:
    if source.HasField("tfrecords_path"):
        return DataSource(tfrecords=source.tfrecords_path)
    return DataSource(image_dir=source.image_directory_path, label_dir=source.label_directory_path)


def check_folder(folder: str, path: str, findings: Findings) -> None:
    if os.path.isfile(folder):
        findings.wrong(path, f"{folder!r} is a file, a folder is needed")
    elif not os.path.isdir(folder):
        findings.wrong(path, f"{folder!r} does not exist", _hint(folder))


def check_file(file: str, path: str, findings: Findings) -> None:
    if os.path.isdir(file):
        findings.wrong(path, f"{file!r} is a folder, a file is needed")
    elif not os.path.isfile(file):
        findings.wrong(path, f"{file!r} does not exist", _hint(file))


def matches(pattern: str) -> bool:
    """Whether a file, a folder, a pattern or a prefix leads to anything."""
    try:
        return os.path.exists(pattern) or any(
            next(glob.iglob(form), None) for form in (pattern, pattern + "*", glob.escape(pattern) + "*")
        )
    except ValueError:  # a NUL character
        return False


def _hint(path: str) -> str:
    """How much of a lost path there is."""
    parent = os.path.dirname(os.path.abspath(path))
    while parent != os.path.dirname(parent) and not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    start = "" if os.path.isabs(path) else f" (it starts from {os.getcwd()}, where the command runs)"
    return f"there is nothing beyond {parent}{start}"
