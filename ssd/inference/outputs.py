"""What inference writes: annotated pictures, KITTI labels, JSON."""

import json
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ssd import visualize
from ssd.console import warn
from ssd.errors import RunError
from ssd.evaluation.results import to_pixels
from ssd.files import whole_file, write_text
from ssd.inference.images import Outputs

WRITERS = 4  # threads; decoding, drawing and encoding leave the interpreter lock alone most of the time
WAITING = 64  # images; a slow disk holds up the prediction instead of filling memory


def label_line(name: str, box: np.ndarray, score: float) -> str:
    """One detection in KITTI's 16 columns: class, truncation, occlusion, alpha, box in pixels, 7 zeros, score.

    Columns are parted by spaces, so a class name loses its own, which class names are compared without anyway.
    """
    left, top, right, bottom = (f"{value:.3f}" for value in box)
    return f"{''.join(name.split())} 0 0 0 {left} {top} {right} {bottom} 0 0 0 0 0 0 0 {score:.6f}"


class Writer:
    """Writes the results of images on threads, while the next batch is predicted.

    Args:
        paths: the images; `outputs` are the files for each.
        classes: names in index order; the first is class 1.
        threshold: detections with a lower score are left out.
        keep: collect what `json_text` needs.

    Raises, from `add` or when it closes:
        RunError: a file could not be written.
    """

    def __init__(
        self,
        paths: list[Path],
        outputs: list[Outputs],
        classes: tuple[str, ...],
        threshold: float,
        *,
        keep: bool = True,
    ):
        self.detections = Counter()  # written, per class name
        self.best_score = 0.0  # of all detections, left out or not
        self._paths, self._outputs, self._classes, self._threshold = paths, outputs, classes, threshold
        self._keep = keep
        self._rows: dict[int, list[dict]] = {}
        self._pool = ThreadPoolExecutor(WRITERS)
        self._pending: deque[Future] = deque()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, error, trace) -> None:
        # After an error the rest is not worth waiting for; without one, its errors must come up.
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self._wait(0)

    def add(
        self, index: int, size: tuple[int, int], boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray
    ) -> None:
        """Takes the detections of image `index`: relative corners `(D, 4)`, scores and classes `(D,)`, best first."""
        self.best_score = max(self.best_score, float(scores.max(initial=0.0)))
        keep = scores >= np.float32(self._threshold)
        pixels, scores = to_pixels(boxes[keep], size), scores[keep].tolist()
        names = [self._classes[number - 1] for number in classes[keep].tolist()]
        self.detections.update(names)
        if self._keep:
            self._rows[index] = [
                _json_row(index, self._paths[index], name, number, box, score)
                for name, number, box, score in zip(names, classes[keep].tolist(), pixels, scores, strict=True)
            ]
        colors = [visualize.class_color(number) for number in classes[keep].tolist()]
        self._pending.append(self._pool.submit(self._write, index, pixels, names, scores, colors))
        self._wait(WAITING)

    def json_text(self) -> str:
        """All detections, in the order of the images, as a list that pycocotools' `loadRes` takes."""
        rows = [row for index in sorted(self._rows) for row in self._rows[index]]
        return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n" if rows else "[]\n"

    def _wait(self, left: int) -> None:
        while len(self._pending) > left:
            try:
                self._pending.popleft().result()
            except OSError as error:
                raise RunError(f"cannot write the results: {error.strerror or error}", where=error.filename) from error

    def _write(self, index: int, boxes: np.ndarray, names: list[str], scores: list[float], colors: list) -> None:
        lines = [label_line(name, box, score) + "\n" for name, box, score in zip(names, boxes, scores, strict=True)]
        write_text(self._outputs[index].label, "".join(lines))
        try:
            image = visualize.upright(self._paths[index].read_bytes())
        except OSError as error:
            # TensorFlow's decoder forgives some damage that Pillow does not.
            warn(f"{self._paths[index]}: no annotated picture, only a label: {error}")
            return
        picture = visualize.draw(image, boxes, names, scores, colors=colors)
        with whole_file(self._outputs[index].picture) as temporary:
            picture.save(temporary, quality=92)


def _json_row(index: int, path: Path, name: str, number: int, box: np.ndarray, score: float) -> dict:
    left, top, right, bottom = (round(float(value), 3) for value in box)
    return {
        "image_id": index,
        "file_name": str(path),
        "category_id": number,
        "category": name,
        "bbox": [left, top, round(right - left, 3), round(bottom - top, 3)],
        "score": round(score, 6),
    }
