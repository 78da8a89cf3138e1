"""TFRecords in TAO's layout: the framing, the example inside, index files, and finding shards.

Framing: 8 bytes length, 4 bytes masked crc32c of them, the payload, 4 bytes masked crc32c of it; little-endian.
Reading and writing need no TensorFlow, so that conversion workers start at once.
"""

import glob
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from ssd.data.example import Example
from ssd.data.sample import LabelRow, Objects, is_difficult
from ssd.errors import DataError

FRAME = struct.Struct("<QI")
CHECK = struct.Struct("<I")
OVERHEAD = FRAME.size + CHECK.size  # bytes of a record besides its payload
SHARD_SUFFIX = re.compile(r"(-fold-(?P<fold>\d{3,})-of-\d{3,})?(-shard-\d{5,}-of-\d{5,})?$")
NOT_RECORDS = (".json", ".csv", ".txt", ".md", ".png", ".jpg", ".jpeg", ".bmp", ".log")

_BOX = ("target/coordinates_x1", "target/coordinates_y1", "target/coordinates_x2", "target/coordinates_y2")
_WORLD = tuple(f"target/world_bbox_{name}" for name in ("h", "w", "l", "x", "y", "z", "rot_y"))


@dataclass(frozen=True)
class Record:
    """One image of a record file."""

    frame_id: str  # image folder / stem
    image: bytes  # the image file as it was
    size: tuple[int, int]  # height, width of the upright image, px
    objects: Objects
    dropped: int  # boxes with nothing inside the image


def masked_crc(data: bytes) -> int:
    """TFRecord's checksum: crc32c, rotated and shifted so that a checksum of checksums stays useful."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """The payload as it stands in a TFRecord file."""
    return b"".join(frame_parts(payload))


def frame_parts(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """What `frame` joins: to be written one after the other, without another copy of the image."""
    length = struct.pack("<Q", len(payload))
    return length + CHECK.pack(masked_crc(length)), payload, CHECK.pack(masked_crc(payload))


def index_path(shard: str | os.PathLike) -> Path:
    """`idx-<name>` beside the shard."""
    return Path(shard).with_name("idx-" + Path(shard).name)


def record_index(path: str | os.PathLike) -> np.ndarray:
    """Where the payloads of a TFRecord file are.

    Returns:
        int64 `(n, 2)`: payload offset and length, bytes. Taken from the `idx-` file where that is there, not older
        than the shard, and covers it exactly; else from the framing.

    Raises:
        DataError: the file cannot be read, is cut off or damaged; names the record, counted from 0.
    """
    try:
        indexed = _read_index_file(path)
        return _scan(path) if indexed is None else indexed
    except OSError as error:
        raise DataError(f"cannot read the record file: {error.strerror}", where=str(path)) from error


def _read_index_file(path: str | os.PathLike) -> np.ndarray | None:
    """The index in the idx- file, or None where it is missing or does not describe this shard."""
    index, shard = index_path(path), os.stat(path)
    try:
        if index.stat().st_mtime_ns < shard.st_mtime_ns:
            return None
        spans = np.array(index.read_bytes().split(), np.int64).reshape(-1, 2)
    except (OSError, ValueError, OverflowError):
        return None
    offsets, sizes = spans[:, 0], spans[:, 1]
    ends = np.cumsum(sizes)
    if np.any(sizes < OVERHEAD) or np.any(offsets != ends - sizes) or (ends[-1] if len(ends) else 0) != shard.st_size:
        return None
    payloads = np.stack([offsets + FRAME.size, sizes - OVERHEAD], axis=1)
    with open(path, "rb") as file:
        for number in sorted({0, len(payloads) // 2, len(payloads) - 1}) if len(payloads) else ():
            file.seek(offsets[number])
            length, check = FRAME.unpack(file.read(FRAME.size))
            if length != payloads[number, 1] or check != masked_crc(struct.pack("<Q", length)):
                return None
    return payloads


def _scan(path: str | os.PathLike) -> np.ndarray:
    spans, position = [], 0
    with open(path, "rb", buffering=0) as file:
        total = os.fstat(file.fileno()).st_size
        while position < total:
            head = os.pread(file.fileno(), FRAME.size, position)
            number = len(spans)
            if number == 0 and head[:2] == b"\x1f\x8b":
                raise DataError("compressed TFRecords are not read; unpack the file with gunzip", where=str(path))
            if len(head) < FRAME.size:
                raise DataError(f"record {number}: the file is cut off", where=str(path), hint=REDO)
            length, check = FRAME.unpack(head)
            if check != masked_crc(head[:8]):
                what = "this is no TFRecord file" if number == 0 else f"record {number} is damaged (length checksum)"
                raise DataError(what, where=str(path), hint=None if number == 0 else REDO)
            if position + length + OVERHEAD > total:
                raise DataError(f"record {number}: the file is cut off", where=str(path), hint=REDO)
            spans.append((position + FRAME.size, length))
            position += length + OVERHEAD
    return np.array(spans, np.int64).reshape(-1, 2)


REDO = "copy the file again, or run dataset_convert again"


def read_payload(path: str | os.PathLike, offset: int, length: int) -> bytes:
    """One payload, its checksum verified. Raises DataError naming the file and the byte offset."""
    offset, length = int(offset), int(length)
    try:
        with open(path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), length + CHECK.size, offset)
    except OSError as error:
        raise DataError(f"cannot read the record file: {error.strerror}", where=str(path)) from error
    if len(data) < length + CHECK.size:
        raise DataError(f"the record at byte {offset} is cut off", where=str(path), hint=REDO)
    payload = data[:length]
    if CHECK.unpack_from(data, length)[0] != masked_crc(payload):
        raise DataError(f"the record at byte {offset} is damaged (checksum)", where=str(path), hint=REDO)
    return payload


def encode_example(
    *, frame_id: str, image: bytes, size: tuple[int, int], rows: Sequence[LabelRow], objects: Objects
) -> bytes:
    """The payload of one image; `rows` and `objects` as `sample.place` returns them. The same input, the same bytes."""
    example = Example()
    feature = example.features.feature
    feature["frame/id"].bytes_list.value.append(frame_id.encode())
    feature["frame/height"].int64_list.value.append(size[0])
    feature["frame/width"].int64_list.value.append(size[1])
    feature["frame/encoded"].bytes_list.value.append(image)
    # An empty list still needs its kind: TAO's reader wants every key in every record.
    _floats(feature, "target/object_class_id", objects.classes.tolist())
    for key, column in zip(_BOX, objects.boxes.T.tolist(), strict=True):
        _floats(feature, key, column)
    _floats(feature, "target/truncation", [row.truncation for row in rows])
    occlusion = feature["target/occlusion"].int64_list
    occlusion.SetInParent()
    occlusion.value.extend([int(row.occlusion) for row in rows])
    _floats(feature, "target/observation_angle", [row.alpha for row in rows])
    world = [(*row.dimensions, *row.location, row.rotation_y) for row in rows]
    for column, key in enumerate(_WORLD):
        _floats(feature, key, [values[column] for values in world])
    return example.SerializeToString(deterministic=True)


def _floats(feature, key: str, values: Sequence[float]) -> None:
    floats = feature[key].float_list
    floats.SetInParent()
    floats.value.extend(values)


def parse_example(payload: bytes, where: str = "record") -> Record:
    """The image and its ground truth from a payload written here or by TAO. Boxes are clipped, empty ones dropped.

    Raises:
        DataError: not an example, no image in it, or lists of unequal length; starts with `where`.
    """
    try:
        example = Example.FromString(payload)
    except Exception as error:  # protobuf's DecodeError, without importing its module for the name
        raise DataError("this is no tf.train.Example", where=where) from error
    feature = example.features.feature

    def values(key: str):
        # Absent, or present without a kind (TAO writes such a target/object_class): no values.
        kind = feature[key].WhichOneof("kind") if key in feature else None
        return getattr(feature[key], kind).value if kind else ()

    image, frame_id = values("frame/encoded"), values("frame/id")
    if len(image) != 1 or not isinstance(image[0], bytes):
        raise DataError(f"no image under frame/encoded; the keys are {', '.join(sorted(feature))}", where=where)
    columns = {key: values(key) for key in (*_BOX, "target/object_class_id")}
    count = len(columns["target/object_class_id"])
    for key, column in columns.items():
        if len(column) != count:
            raise DataError(f"{key} has {len(column)} values for {count} objects", where=where)
    occlusion = values("target/occlusion")
    occlusion = occlusion if len(occlusion) == count else [0] * count
    try:
        boxes = np.array([columns[key] for key in _BOX], np.float32).reshape(4, count).T
        classes = np.array(columns["target/object_class_id"], np.float64)
        difficult = is_difficult(occlusion)
        size = tuple(int(values(key)[0]) if len(values(key)) else 0 for key in ("frame/height", "frame/width"))
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("a list has values of the wrong type", where=where) from error
    whole = (classes == np.floor(classes)) & (classes >= 1) & (classes <= np.iinfo(np.int32).max)
    if not np.all(np.isfinite(boxes)) or not np.all(whole):
        raise DataError("a box is not finite or a class id is not a whole number from 1", where=where)
    boxes = np.clip(boxes, 0.0, 1.0)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    objects = Objects(
        boxes=np.ascontiguousarray(boxes[keep]), classes=classes[keep].astype(np.int32), difficult=difficult[keep]
    )
    name = frame_id[0].decode("utf-8", "replace") if len(frame_id) and isinstance(frame_id[0], bytes) else where
    return Record(frame_id=name, image=image[0], size=size, objects=objects, dropped=int(count - keep.sum()))


def find_shards(pattern: str) -> list[str]:
    """The record files that a glob, a prefix, a folder or a file name means, sorted.

    Index files, manifests, problem lists and unfinished files are never among them. A prefix means its own shards
    before it means names that merely start with it: `train` is not `train2-fold-000-of-002`.

    Raises:
        DataError: nothing matches.
    """
    pattern = os.path.expanduser(pattern)
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        found = _records_among(os.path.join(pattern, name) for name in os.listdir(pattern))
    elif glob.has_magic(pattern):
        found = _records_among(glob.glob(pattern))
    else:
        found = _records_among(glob.glob(glob.escape(pattern) + "*"))
        own = [path for path in found if SHARD_SUFFIX.fullmatch(path[len(pattern) :])]
        found = own or found
    if not found:
        raise DataError("no TFRecord files match", where=pattern, hint="give a glob, a prefix, a folder or a file")
    return found


def _records_among(paths) -> list[str]:
    kept = []
    for path in paths:
        name = os.path.basename(path)
        if name.startswith(("idx-", ".")) or name.lower().endswith(NOT_RECORDS) or not os.path.isfile(path):
            continue
        kept.append(path)
    return sorted(kept)
