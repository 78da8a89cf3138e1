"""Which image goes to which fold, in which order: TAO's rules and TAO's shuffles, so that folds are the same."""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ssd.errors import DataError

SEED = 42


@dataclass(frozen=True)
class Frame:
    """One image to convert. KITTI's label is read when its shard is written; COCO's rows are already here."""

    frame_id: str  # image folder / stem, as stored
    image: str  # path
    annotation: str  # path of the label file, or of the COCO file
    rows: tuple | None = None  # LabelRow of COCO; None: read `annotation`
    stated_size: tuple[int, int] | None = None  # height, width in the COCO file


def random_folds(stems: Sequence[str], val_split: float) -> list[list[str]]:
    """Sorted stems, the first `val_split` percent to fold 0 (validation), the rest to fold 1; both shuffled twice."""
    stems = sorted(stems)
    cut = int(val_split / 100.0 * len(stems))
    folds = [stems[:cut], stems[cut:]]
    rng = random.Random(SEED)
    for _ in range(2):  # TAO shuffles when it partitions and again before it writes
        for fold in folds:
            rng.shuffle(fold)
    return folds


def sequence_folds(sequences: dict[str, list[str]], num_partitions: int) -> list[list[str]]:
    """Whole sequences, longest first, dealt in turn to the folds from the last to the first; each fold shuffled."""
    ordered = sorted(sequences.items(), key=lambda item: (-len(item[1]), item[0]))
    folds: list[list[str]] = [[] for _ in range(num_partitions)]
    for number, (_, frames) in enumerate(ordered):
        folds[number % num_partitions].extend(frames)
    folds.reverse()
    rng = random.Random(SEED)
    for fold in folds:
        rng.shuffle(fold)
    return folds


def read_sequences(path: str | os.PathLike) -> dict[str, list[str]]:
    """The JSON object `{sequence: [frame, ...]}`. Raises DataError where it is something else."""
    where = str(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise DataError(f"cannot read the sequence file: {error.strerror}", where=where) from error
    except ValueError as error:
        raise DataError(f"the sequence file is not valid JSON: {error}", where=where) from error
    if not isinstance(content, dict) or not content:
        raise DataError('the sequence file must be a JSON object {"sequence": ["frame", ...]}', where=where)
    for name, frames in content.items():
        if not isinstance(frames, list) or not all(isinstance(frame, str) and frame for frame in frames):
            raise DataError(f"sequence '{name}' is not a list of frame names", where=where)
    return content


def shard_sizes(count: int, num_shards: int) -> list[int]:
    """Equal shards, the remainder in the last one."""
    each = count // num_shards
    return [each] * (num_shards - 1) + [count - each * (num_shards - 1)]


def shard_name(prefix: str, fold: int, num_partitions: int, shard: int, num_shards: int) -> str:
    """TAO's file name."""
    return f"{prefix}-fold-{fold:03d}-of-{num_partitions:03d}-shard-{shard:05d}-of-{num_shards:05d}"
