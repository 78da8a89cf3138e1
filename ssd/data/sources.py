"""Random access to the images of a spec's data sources: KITTI folders and TFRecords, several of each, mixed.

Ground truth is held in flat arrays, image bytes stay on disk: memory per image is its objects and its name. Building
the index looks at every file once, so that what is missing, empty, truncated or no image at all is known before
training starts.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ssd import console
from ssd.data import kitti, manifest, records
from ssd.data.audit import LabelProblem
from ssd.data.image_header import BadImage, Header, read_header
from ssd.data.sample import DONT_CARE, Objects, class_indices, place
from ssd.errors import DataError, InputError, raise_all
from ssd.spec.config import Dataset, DataSource, class_key

EXTENSIONS = (*kitti.IMAGE_EXTENSIONS, ".gif")
# Threads that read headers and labels: they mostly wait for the disk.
READERS = 8
# Entries in flight among them; bounds what is held before it becomes arrays.
BLOCK = 2048
# Problems shown by name; the rest is counted.
SHOWN = 5


@dataclass(frozen=True)
class ImageIndex:
    """n images with T objects in all.

    Attributes:
        names: what an image is called in messages: its path, or for a record `<shard>: <frame id>`.
        files: the file that holds each image.
        spans: int64 `(n, 4)`: payload offset and length in a record file, image offset and length in the payload;
            length -1: the whole file is the image.
        sizes: int32 `(n, 2)` height, width of the upright image, px.
        orientations: int32 `(n,)` EXIF, 1..8.
        starts: int64 `(n + 1,)`: the objects of image i are `starts[i]:starts[i + 1]` of the next three.
        boxes, classes, difficult: as in `sample.Objects`, `(T, 4)`, `(T,)`, `(T,)`.
        left_out: int32 `(n,)` difficult objects that are not among them, since the spec trains without.
    """

    names: list[str]
    files: list[str]
    spans: np.ndarray
    sizes: np.ndarray
    orientations: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray
    left_out: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    @property
    def counts(self) -> np.ndarray:
        """Objects per image, `(n,)`."""
        return np.diff(self.starts)

    def objects(self, index: int) -> Objects:
        """The ground truth of one image."""
        part = slice(self.starts[index], self.starts[index + 1])
        return Objects(self.boxes[part], self.classes[part], self.difficult[part])

    def read(self, index: int) -> bytes:
        """The image file as it is. Raises DataError naming it."""
        offset, length, start, size = self.spans[index].tolist()
        if length < 0:
            return read_file(self.files[index])
        return records.read_payload(self.files[index], offset, length)[start : start + size]


@dataclass
class Findings:
    """What was seen while indexing: problems counted by kind, the first few kept; objects by label."""

    problems: Counter = field(default_factory=Counter)  # (kind, what it loses) -> how many
    first: list[LabelProblem] = field(default_factory=list)
    unmapped: Counter = field(default_factory=Counter)  # label -> objects
    labels: Counter = field(default_factory=Counter)  # (label, class or "-") -> objects

    def add(self, problems: Iterable[LabelProblem]) -> None:
        for problem in problems:
            if problem.kind == "unmapped class":
                continue  # counted by label instead: leaving classes out is usually meant
            self.problems[problem.kind, problem.loses] += 1
            if len(self.first) < SHOWN:
                self.first.append(problem)

    def report(self, purpose: str) -> None:
        """Warnings on the terminal: one line of counts, the first problems with file and line, unmapped labels."""
        if self.problems:
            outcome = {"image": "image skipped", "object": "object dropped"}
            parts = [
                f"{count} x {kind} ({outcome.get(loses, loses)})"
                for (kind, loses), count in sorted(self.problems.items(), key=lambda item: (-item[1], item[0]))
            ]
            shown = [f"\n    {problem}" for problem in self.first]
            more = sum(self.problems.values()) - len(shown)
            shown += [f"\n    ... and {more} more; dataset_convert lists all of them in a CSV"] if more else []
            console.warn(f"{purpose} data: {', '.join(parts)}{''.join(shown)}")
        if self.unmapped:
            names = ", ".join(f"{name} {count}" for name, count in self.unmapped.most_common(12))
            console.warn(f"{purpose} data: objects left out, their labels are not in target_class_mapping: {names}")

    def table(self) -> str:
        """Label, class and number of objects, one a line."""
        rows = [("label", "class", "objects")]
        rows += [(label, target, str(count)) for (label, target), count in self.labels.most_common(30)]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        return "\n    ".join(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)


@dataclass(frozen=True)
class _Entry:
    """One image on its way into the arrays."""

    name: str
    file: str
    span: tuple[int, int, int, int]
    header: Header
    objects: Objects


def index_sources(sources: Sequence[DataSource], dataset: Dataset, purpose: str) -> ImageIndex:
    """Indexes data sources in their order, files of each sorted by name; warns about what is left out.

    Args:
        purpose: "training" or "validation"; training leaves out difficult objects where the spec says so.

    Raises:
        DataError: a folder or record file that cannot be used, records of other classes, no image at all, or no
            object whose label is in the class mapping (with a table of what was found).
        Problems: several of those.
    """
    findings, entries = Findings(), []
    difficult_too = purpose != "training" or dataset.include_difficult
    problems: list[InputError] = []
    if not sources:
        raise DataError(f"the spec names no {purpose} data", where="dataset_config")
    with console.progress(label=f"{purpose} data") as bar:
        for source in sources:
            try:
                for entry in _entries(source, dataset, purpose, findings):
                    entries.append(entry)
                    bar.update()
            except DataError as error:
                problems.append(error)
    raise_all(problems)
    findings.report(purpose)
    where = ", ".join(source.tfrecords or source.image_dir or "?" for source in sources)
    if not entries:
        raise DataError(f"no {purpose} image can be used", where=where)
    index = _pack(entries, difficult_too)
    if not len(index.classes):
        found = sum(findings.labels.values())
        if found and not difficult_too and any(target != "-" for _, target in findings.labels):
            raise DataError(
                f"all {found} labelled objects are marked difficult (occluded), none is left to train on",
                where=where,
                hint="set include_difficult_in_training: true",
            )
        raise DataError(
            f"none of the {found} labelled objects in {len(entries)} {purpose} images has a class of "
            f"target_class_mapping ({', '.join(dataset.classes)})",
            where=where,
            hint=findings.table() if found else "the label files are empty",
        )
    return index


def _entries(source: DataSource, dataset: Dataset, purpose: str, findings: Findings) -> Iterator[_Entry]:
    if source.tfrecords:
        shards = records.find_shards(source.tfrecords)
        manifest.check(shards, dataset.classes, training=purpose == "training")
        jobs = ((shard, number, span) for shard in shards for number, span in enumerate(records.record_index(shard)))
        return _in_threads(jobs, lambda job: _record_entry(*job, dataset.classes, findings))
    if not source.image_dir or not source.label_dir:
        raise DataError("a data source needs tfrecords_path, or image_directory_path and label_directory_path")
    pairs = kitti.pair_folders(source.image_dir, source.label_dir, EXTENSIONS)
    if not any(label for _, label in pairs):
        raise DataError(
            f"none of the {len(pairs)} images in {source.image_dir} has a label file here",
            where=source.label_dir,
            hint="labels are named as their images: 000012.jpg and 000012.txt",
        )
    findings.add(kitti.unread_images(source.image_dir, pairs, source.label_dir))
    indices = class_indices(dataset.classes, dataset.class_mapping)
    return _in_threads(pairs, lambda pair: _kitti_entry(*pair, indices, dataset.classes, findings))


def _in_threads(jobs: Iterable, work) -> Iterator[_Entry]:
    """`work(job)` of every job, in order, without the Nones. `work` returns (entry, what to note in the findings)."""
    jobs = iter(jobs)
    with ThreadPoolExecutor(READERS) as pool:
        while block := [job for _, job in zip(range(BLOCK), jobs, strict=False)]:
            for entry, note in pool.map(work, block):
                note()  # here, in one thread and in order: counters are not shared between threads
                if entry is not None:
                    yield entry


def _kitti_entry(image: str, label: str | None, indices: dict[str, int], classes, findings: Findings):
    if label is None:
        problem = LabelProblem(image, None, "missing label", "there is no label file for this image", "image")
        return None, lambda: findings.add([problem])
    rows, problems = kitti.read_label(label)
    entry = None
    if not any(problem.loses == "image" for problem in problems):
        try:
            header = read_header(read_file(image))
            _, objects, misplaced = place(rows, (header.height, header.width), indices, label)
            problems += misplaced
            entry = _Entry(image, image, (0, -1, 0, 0), header, objects)
        except BadImage as error:
            problems.append(LabelProblem(image, None, "unreadable image", str(error), "image"))
        except DataError as error:
            problems.append(LabelProblem(image, None, "unreadable image", error.message, "image"))

    def note():
        findings.add(problems)
        for row in rows:
            index = indices.get(class_key(row.name))
            findings.labels[row.name, classes[index - 1] if index else "-"] += 1
            if index is None and class_key(row.name) != DONT_CARE:
                findings.unmapped[row.name] += 1

    return entry, note


def _record_entry(shard: str, number: int, span: np.ndarray, classes: Sequence[str], findings: Findings):
    where = f"{shard}: record {number}"
    payload = records.read_payload(shard, *span)
    record = records.parse_example(payload, where)
    if len(record.objects) and record.objects.classes.max() > len(classes):
        raise DataError(
            f"class id {record.objects.classes.max()}, but target_class_mapping has {len(classes)} classes",
            where=where,
            hint="the records were made with another class list: use its target_class_mapping, or run dataset_convert",
        )
    name, problems, entry = f"{shard}: {record.frame_id}", [], None
    if record.dropped:
        detail = f"{record.dropped} boxes with nothing inside the image"
        problems = [LabelProblem(name, None, "empty box", detail)] * record.dropped
    try:
        # Where the image lies in the payload: reading it later needs no parsing.
        image = (payload.find(record.image), len(record.image))
        entry = _Entry(name, shard, (*span.tolist(), *image), read_header(record.image), record.objects)
    except BadImage as error:
        problems.append(LabelProblem(name, None, "unreadable image", str(error), "image"))

    def note():
        findings.add(problems)
        for index in record.objects.classes.tolist():
            findings.labels[f"class id {index}", classes[index - 1]] += 1

    return entry, note


def _pack(entries: list[_Entry], difficult_too: bool) -> ImageIndex:
    objects = [entry.objects for entry in entries]
    boxes = np.concatenate([part.boxes for part in objects])
    classes = np.concatenate([part.classes for part in objects])
    difficult = np.concatenate([part.difficult for part in objects])
    starts = np.concatenate([[0], np.cumsum([len(part) for part in objects])])
    counted = np.diff(starts)
    if not difficult_too:
        kept = np.concatenate([[0], np.cumsum(~difficult)])
        starts, boxes, classes = kept[starts], boxes[~difficult], classes[~difficult]
        difficult = difficult[~difficult]
    return ImageIndex(
        names=[entry.name for entry in entries],
        files=[entry.file for entry in entries],
        spans=np.array([entry.span for entry in entries], np.int64),
        sizes=np.array([(entry.header.height, entry.header.width) for entry in entries], np.int32),
        orientations=np.array([entry.header.orientation for entry in entries], np.int32),
        starts=starts.astype(np.int64),
        boxes=boxes,
        classes=classes,
        difficult=difficult,
        left_out=(counted - np.diff(starts)).astype(np.int32),
    )


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of an image file. Raises DataError naming it."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"cannot read the image: {error.strerror}", where=str(path)) from error
