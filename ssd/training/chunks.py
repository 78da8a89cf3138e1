"""Ground truth in chunks of 16 boxes, so that a compiled step knows how many there are.

TensorFlow, when it meets batches of different padding, compiles a step for any padding; matching needs the number. The
number of chunks is structure, not shape: each gets a step of its own. It is a power of two, so these are few.
"""

import numpy as np
from keras import ops

ROWS = 16


def chunked(truth: dict) -> dict[str, tuple[np.ndarray, ...]]:
    """ "boxes" `(B, M, 4)` and "classes" `(B, M)` of a loader's batch, padded further and cut along M."""
    return {name: _cut(np.asarray(truth[name])) for name in ("boxes", "classes")}


def joined(chunks) -> tuple:
    """Boxes `(B, M, 4)` and classes `(B, M)` again, as tensors."""
    return ops.concatenate(chunks["boxes"], axis=1), ops.concatenate(chunks["classes"], axis=1)


def _cut(array: np.ndarray) -> tuple[np.ndarray, ...]:
    count = 1
    while count * ROWS < array.shape[1]:
        count *= 2
    padding = [(0, 0), (0, count * ROWS - array.shape[1])] + [(0, 0)] * (array.ndim - 2)
    return tuple(np.split(np.pad(array, padding), count, axis=1))
