"""A KITTI or COCO dataset to TFRecords: plan the folds, write the shards aside, give them their names together."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssd import console
from ssd.data import audit, coco, kitti, manifest, partition
from ssd.data.audit import LabelProblem
from ssd.data.partition import Frame
from ssd.data.publish import make_folder, publish, remove_if_empty, staging_folder
from ssd.data.sample import class_indices
from ssd.data.shards import ShardResult, ShardTask, write_shards
from ssd.errors import DataError, InputError
from ssd.spec.config import CocoInput, Conversion, KittiInput, class_key


@dataclass(frozen=True)
class Plan:
    """What is to be written: the frames of each fold in order, and what was wrong before any image was read."""

    folds: tuple[tuple[Frame, ...], ...]  # empty ones too
    num_shards: tuple[int, ...]  # per fold
    classes: tuple[str, ...]  # in index order
    validation_fold: int | None
    problems: tuple[LabelProblem, ...]


@dataclass(frozen=True)
class Outcome:
    """A finished conversion. `results` are in the order of the shards; `files` are final names."""

    manifest: manifest.Manifest
    results: tuple[ShardResult, ...]
    problems: tuple[LabelProblem, ...]
    notes: dict[str, int]
    problems_csv: Path | None


def make_plan(spec: Conversion, class_names: Sequence[str] = (), validation_fold: int | None = None) -> Plan:
    """Reads folders, sequence or annotation files and deals the images to folds.

    Args:
        spec: what to convert.
        class_names: of the names file; used where the spec has no mapping.
        validation_fold: which fold is for validation; random partition has it at 0 already.

    Raises:
        InputError: a fold that does not exist, no classes. DataError: folders or files that cannot be used.
    """
    source = spec.source
    root = Path(source.root)
    categories: tuple[str, ...] = ()
    random_mode = isinstance(source, KittiInput) and source.partition_mode == "random"
    if isinstance(source, KittiInput):
        folds, problems = _kitti_folds(source, root)
        num_shards = (source.num_shards,) * len(folds)
    else:
        folds, problems, categories = _coco_folds(source, root)
        num_shards = source.num_shards
    if validation_fold is not None and not 0 <= validation_fold < len(folds):
        raise InputError(f"-f/--validation_fold {validation_fold}: the folds are 0 to {len(folds) - 1}")
    if random_mode and validation_fold not in (None, 0):
        raise InputError(
            f"-f/--validation_fold {validation_fold}: random partition puts the validation images in fold 0"
        )
    if random_mode:
        validation_fold = 0
    classes = tuple(spec.classes) or _sorted_names(class_names) or _sorted_names(categories)
    if not classes:
        raise InputError(
            "no classes: the spec has no target_class_mapping",
            hint="add one to the spec, or give -c/--class_names_file with one class a line",
        )
    folds = _capped(folds, spec.max_training_samples, validation_fold)
    return Plan(tuple(map(tuple, folds)), num_shards, classes, validation_fold, tuple(problems))


def _sorted_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names that stand for themselves, one of each spelling, in the order that gives them their indices."""
    unique = {class_key(name): name for name in reversed(names)}
    return tuple(sorted(unique.values(), key=lambda name: (name.lower(), name)))


def _kitti_folds(source: KittiInput, root: Path) -> tuple[list[list[Frame]], list[LabelProblem]]:
    image_dir, label_dir = root / source.image_dir, root / source.label_dir
    pairs = kitti.pair_folders(image_dir, label_dir, [source.image_extension])
    frames: dict[str, Frame] = {}
    problems: list[LabelProblem] = []
    for image, label in pairs:
        stem = Path(image).stem
        if stem in frames:
            detail = f"{frames[stem].image} has the same name and was taken"
            problems.append(LabelProblem(image, None, "duplicate stem", detail, "image"))
            continue
        annotation = label or str(label_dir / f"{stem}.txt")
        frames[stem] = Frame(_frame_id(source.image_dir, stem), image, annotation)
    _warn_of_other_files(image_dir, source.image_extension)
    if source.partition_mode == "random":
        folds = partition.random_folds(list(frames), source.val_split)
        return [[frames[stem] for stem in fold] for fold in folds], problems
    file = root / (source.sequence_file or "")
    sequences = partition.read_sequences(file)
    seen: dict[str, str] = {}
    for name in sequences:
        for frame in sequences[name]:
            if frame in seen:
                detail = f"frame '{frame}' is in sequence '{seen[frame]}' and again in '{name}'"
                problems.append(LabelProblem(str(file), None, "duplicate frame", detail, "image"))
            seen.setdefault(frame, name)
    # The first mention counts, so that no image is in two folds.
    sequences = {name: [f for f in dict.fromkeys(listed) if seen[f] == name] for name, listed in sequences.items()}
    for frame in seen:
        if frame not in frames:
            image, label = image_dir / (frame + source.image_extension), label_dir / f"{frame}.txt"
            frames[frame] = Frame(_frame_id(source.image_dir, frame), str(image), str(label))
    left_out = len(frames.keys() - seen.keys())
    if left_out:
        console.warn(f"{left_out} images are in no sequence of {file} and are left out")
    folds = partition.sequence_folds(sequences, source.num_partitions)
    return [[frames[frame] for frame in fold] for fold in folds], problems


def _warn_of_other_files(image_dir: Path, extension: str) -> None:
    others = Counter(Path(name).suffix.lower() for name in os.listdir(image_dir))
    for other in kitti.IMAGE_EXTENSIONS:
        if others[other] and other != extension.lower():
            console.warn(f"{others[other]} {other} images in {image_dir} are left out: image_extension is {extension}")


def _coco_folds(source: CocoInput, root: Path) -> tuple[list[list[Frame]], list[LabelProblem], tuple[str, ...]]:
    annotation_files = [coco.read_file(root / name) for name in source.annotation_files]
    categories = coco.same_categories(annotation_files)
    folds, problems = [], []
    for file, image_dir in zip(annotation_files, source.image_dirs, strict=True):
        problems += file.problems
        folds.append(
            [
                Frame(
                    frame_id=_frame_id(image_dir, os.path.splitext(image.file_name)[0]),
                    image=str(root / image_dir / image.file_name),
                    annotation=file.path,
                    rows=image.rows,
                    stated_size=image.size,
                )
                for image in file.images
            ]
        )
    return folds, problems, categories


def _frame_id(image_dir: str, stem: str) -> str:
    return f"{image_dir.rstrip('/')}/{stem}" if image_dir else stem


def _capped(folds: list[list[Frame]], most: int | None, validation_fold: int | None) -> list[list[Frame]]:
    """At most `most` images for training, the same number from every fold that trains."""
    training = [number for number, fold in enumerate(folds) if fold and number != validation_fold]
    if not most or not training:
        return folds
    share = max(most // len(training), 1)
    return [fold[:share] if number in training else fold for number, fold in enumerate(folds)]


def check_prefix(prefix: str) -> Path:
    """The output prefix as a path, or InputError: it must not be a folder, hidden, or look like a pattern."""
    path = Path(prefix).expanduser()
    flag = f"-o/--output_filename {prefix}"
    if prefix.endswith(("/", os.sep)) or path.is_dir() or path.name in ("", ".", ".."):
        raise InputError(f"{flag}: a folder; give a prefix of file names, such as {prefix.rstrip('/')}/train")
    if path.name.startswith((".", "idx-")) or set(str(path)) & set("*?["):
        raise InputError(f"{flag}: must not start with '.' or 'idx-' nor contain * ? [")
    return path


def convert(plan: Plan, spec: Conversion, prefix: Path, *, processes: int, strict: bool = False) -> Outcome:
    """Writes the records of `plan` under `prefix`, in place of what an earlier run wrote there.

    Raises:
        DataError: nothing usable is left, or `strict` and there is a problem; then nothing is written.
        RunError: the disk is full.
    """
    made = make_folder(prefix.parent)
    try:
        with staging_folder(prefix) as staging:
            tasks = _tasks(plan, spec, prefix.name, staging)
            with console.progress(total=sum(map(len, plan.folds)), label="converting") as bar:
                results = write_shards(tasks, processes, bar.update)
            problems = [*plan.problems, *(problem for result in results for problem in result.problems)]
            problems.sort(key=lambda problem: (problem.file, problem.line or 0))
            _check_outcome(plan, results, problems, strict)
            summary = _manifest(plan, spec, results)
            csv = Path(f"{prefix}-problems.csv") if problems else None
            if csv:
                audit.write_csv(staging / csv.name, problems)
            publish(staging, prefix, summary)
    except BaseException:
        for folder in made:
            remove_if_empty(folder)
        raise
    notes = sum((result.notes for result in results), Counter())
    return Outcome(summary, tuple(results), tuple(problems), {note: n for note, n in notes.items() if n}, csv)


def _tasks(plan: Plan, spec: Conversion, name: str, staging: Path) -> list[ShardTask]:
    indices = class_indices(plan.classes, spec.class_mapping)
    tasks = []
    for fold, (frames, num_shards) in enumerate(zip(plan.folds, plan.num_shards, strict=True)):
        if not frames:
            continue  # an empty fold has no files, and the others keep their numbers
        if len(frames) < num_shards:
            console.warn(f"fold {fold} has {len(frames)} images for {num_shards} shards: some shards are empty")
        start = 0
        for shard, size in enumerate(partition.shard_sizes(len(frames), num_shards)):
            path = staging / partition.shard_name(name, fold, len(plan.folds), shard, num_shards)
            tasks.append(ShardTask(path, fold, frames[start : start + size], indices))
            start += size
    return tasks


def _check_outcome(plan: Plan, results: Sequence[ShardResult], problems: Sequence[LabelProblem], strict: bool) -> None:
    listing = "\n    ".join(audit.first_lines(problems))
    if strict and problems:
        raise DataError(f"--strict: {len(problems)} problems, nothing was written", hint=listing)
    if not sum(result.records for result in results):
        raise DataError("no image can be used, nothing was written", hint=listing or "the dataset has no images")
    if not any(result.objects for result in results):
        labels = sum((result.labels for result in results), Counter())
        found = ", ".join(f"{name} ({number})" for name, number in labels.most_common(20)) or "none"
        only_unmapped = labels and all(problem.kind == "unmapped class" for problem in problems)
        raise DataError(
            f"no object is left, nothing was written; the classes are {', '.join(plan.classes[:20])}; "
            f"the labels have {found}",
            hint="name the labels' classes in target_class_mapping" if only_unmapped else listing or None,
        )


def _manifest(plan: Plan, spec: Conversion, results: Sequence[ShardResult]) -> manifest.Manifest:
    folds = []
    for fold in range(len(plan.folds)):
        mine = [result for result in results if result.fold == fold]
        objects = sum((result.objects for result in mine), Counter())
        role = "" if plan.validation_fold is None else "validation" if fold == plan.validation_fold else "training"
        counts = {name: objects[index] for index, name in enumerate(plan.classes, start=1)}
        folds.append(manifest.Fold(fold, role, sum(result.records for result in mine), counts))
    return manifest.Manifest(
        classes=plan.classes,
        class_mapping=tuple(spec.class_mapping) or tuple((class_key(name), name) for name in plan.classes),
        validation_fold=plan.validation_fold,
        max_objects=max((result.max_objects for result in results), default=0),
        folds=tuple(folds),
        shards=tuple(manifest.Shard(r.name, r.fold, r.records, r.size, r.crc32c) for r in results),
        spec=spec.text,
    )
