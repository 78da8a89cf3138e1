"""Images that are there more than once, by the bytes of their files."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ssd import console
from ssd.data.sources import ImageIndex

READERS = 8


@dataclass(frozen=True)
class Duplicates:
    """Images with the same bytes. `within`: lists of two or more of the training data; `between`: pairs of lists."""

    within: tuple[tuple[int, ...], ...]
    between: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # (in training, in validation)


def find_duplicates(training: ImageIndex, validation: ImageIndex | None) -> Duplicates:
    """Compares all images; only those that share their length with another are read."""
    indexes = [training] if validation is None else [training, validation]
    places = [(number, image) for number, index in enumerate(indexes) for image in range(len(index))]
    lengths = np.concatenate([_lengths(index) for index in indexes])
    _, which, counts = np.unique(lengths, return_inverse=True, return_counts=True)
    candidates = [places[place] for place in np.flatnonzero(counts[which] > 1)]
    groups: dict[bytes, tuple[list[int], list[int]]] = {}

    def digest(place: tuple[int, int]) -> bytes:
        number, image = place
        return hashlib.blake2b(indexes[number].read(image), digest_size=16).digest()

    with ThreadPoolExecutor(READERS) as pool, console.progress(total=len(candidates), label="comparing images") as bar:
        for (number, image), key in zip(candidates, pool.map(digest, candidates), strict=True):
            groups.setdefault(key, ([], []))[number].append(image)
            bar.update()
    return Duplicates(
        within=tuple(tuple(ours) for ours, _ in groups.values() if len(ours) > 1),
        between=tuple((tuple(ours), tuple(theirs)) for ours, theirs in groups.values() if ours and theirs),
    )


def same_labels(one: ImageIndex, first: int, other: ImageIndex, second: int) -> bool:
    """Whether two images have the same objects, in whatever order; but for difficult ones, which training may lack."""
    rows = []
    for objects in (one.objects(first), other.objects(second)):
        easy = ~objects.difficult
        row = np.column_stack([objects.classes[easy], objects.boxes[easy].astype(np.float64)]).round(5)
        rows.append(row[np.lexsort(row.T)])
    return len(rows[0]) == len(rows[1]) and bool(np.allclose(*rows, atol=2e-5))


def _lengths(index: ImageIndex) -> np.ndarray:
    """int64 `(n,)` bytes of each image; -1 where it cannot be told, which is told when it is read."""
    lengths = index.spans[:, 3].copy()
    for image in np.flatnonzero(index.spans[:, 1] < 0):
        lengths[image] = os.path.getsize(index.files[image])
    return lengths
