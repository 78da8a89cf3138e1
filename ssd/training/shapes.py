"""Ground truth whose keys name its shape, so that every shape of batch gets a compiled step of its own.

TensorFlow, meeting a second shape, would compile a step for any shape instead. Matching needs to know the number of
boxes; and which of the two compiled steps a batch meets would depend on what came before, so that a resumed run would
round differently from an unbroken one.
"""

import numpy as np

from ssd.data.share import Share

ROWS = 16


def keyed(truth: dict) -> dict[str, np.ndarray]:
    """ "boxes 8x32" `(8, 32, 4)` and "classes 8x32" `(8, 32)` of a loader's batch.

    The keys count the images of the whole batch, the arrays have a row for each of them that is this process's, and
    fillers. Boxes are padded further, to 16, 32, 64 and so on: few shapes, few compilations.
    """
    boxes, classes = np.asarray(truth["boxes"]), np.asarray(truth["classes"])
    images, rows = len(truth.get("index", classes)), classes.shape[1]
    room = ROWS
    while room < rows:
        room *= 2
    lack = (0, room - rows)
    return {
        f"boxes {images}x{room}": np.pad(boxes, ((0, 0), lack, (0, 0))),
        f"classes {images}x{room}": np.pad(classes, ((0, 0), lack)),
    }


def boxes_and_classes(batch: dict) -> tuple:
    """The two again, out of a dictionary with `keyed` in it; without fillers."""
    return tuple(_images(batch, name) for name in ("boxes ", "classes "))


def keyed_pixels(pixels: dict, images: int, share: Share) -> dict:
    """The arrays as they are, or where fillers are among their 8 rows under keys like "rgb 7": the batch has 7."""
    rows = share.rows(images)
    fillers = (rows.stop - rows.start) * share.processes > images
    return {f"{name} {images}": values for name, values in pixels.items()} if fillers else pixels


def only_images(pixels: dict) -> dict:
    """The same arrays under their own names, without fillers."""
    return {key.partition(" ")[0]: _images(pixels, key) if " " in key else pixels[key] for key in pixels}


def images_in(batch: dict) -> int:
    """How many the whole batch has, whatever part of it is here."""
    return _count(next(key for key in batch if key.startswith("classes ")))


def _images(batch: dict, name: str):
    key = next(key for key in batch if key.startswith(name))
    # Within the compiled step, where an array of several devices is one. Replicas of TensorFlow have no fillers.
    return batch[key][: _count(key)]


def _count(key: str) -> int:
    return int(key.split()[1].partition("x")[0])
