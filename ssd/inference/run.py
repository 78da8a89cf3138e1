"""Detects objects in batches of images and hands them to the writer."""

from collections.abc import Callable, Iterable

import numpy as np

from ssd.console import progress
from ssd.inference.outputs import Writer


def infer(predict: Callable, batches: Iterable, writer: Writer, total: int) -> int:
    """Predicts every batch; returns the number of images.

    Args:
        predict: images float32 `(B, H, W, C)` to `ssd.boxes.nms.Detections`.
        batches: images, positions in the list of paths `(B,)`, original sizes (height, width) `(B, 2)`.
        total: images expected, for the progress bar; unreadable ones do not come.
    """
    done = 0
    with writer, progress(total=total, label="inference") as bar:
        for images, indices, sizes in batches:
            found = predict(np.asarray(images))
            for row, (index, size) in enumerate(zip(np.asarray(indices).tolist(), np.asarray(sizes), strict=True)):
                count = int(found.valid[row])
                parts = (np.asarray(part[row])[:count] for part in (found.boxes, found.scores, found.classes))
                writer.add(index, (int(size[0]), int(size[1])), *parts)
                done += 1
                bar.update()
    return done
