"""Ground truth whose keys name its shape, so that every shape of batch gets a compiled step of its own.

TensorFlow, meeting a second shape, would compile a step for any shape instead. Matching needs to know the number of
boxes; and which of the two compiled steps a batch meets would depend on what came before, so that a resumed run would
round differently from an unbroken one.
"""

import numpy as np

ROWS = 16


def keyed(truth: dict) -> dict[str, np.ndarray]:
    """ "boxes 8x32" `(8, 32, 4)` and "classes 8x32" `(8, 32)` of a loader's batch.

    Boxes are padded further, to 16, 32, 64 and so on: few shapes, few compilations.
    """
    boxes, classes = np.asarray(truth["boxes"]), np.asarray(truth["classes"])
    images, rows = classes.shape
    room = ROWS
    while room < rows:
        room *= 2
    lack = (0, room - rows)
    return {
        f"boxes {images}x{room}": np.pad(boxes, ((0, 0), lack, (0, 0))),
        f"classes {images}x{room}": np.pad(classes, ((0, 0), lack)),
    }


def boxes_and_classes(batch: dict) -> tuple:
    """The two again, out of a dictionary with `keyed` in it."""
    return tuple(next(batch[key] for key in batch if key.startswith(name)) for name in ("boxes ", "classes "))
