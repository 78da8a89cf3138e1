"""Labels worth a second look, as a list of findings. None of them is an error: the run goes on with all of them."""

from collections.abc import Iterator, Sequence

import numpy as np

from ssd.data.audit import LabelProblem
from ssd.data.sources import ImageIndex
from ssd.inspection.coverage import Size
from ssd.inspection.sizes import pixel_sizes
from ssd.tables import size

VANISHES_PX = 1.0  # a side at the network's input
TINY_PX = 4.0
WHOLE_IMAGE = 0.95  # of the area
SAME_BOX = 0.9  # IoU
LONGEST = 8.0  # long side / short side, in the image as it is


def suspicious_labels(index: ImageIndex, classes: Sequence[str], image_size: Size) -> list[LabelProblem]:
    """Findings in the order of the images.

    Args:
        classes: names, index 0 is class 1.
        image_size: height, width of the network input, px.
    """
    images = np.repeat(np.arange(len(index)), index.counts)
    at_network, original = pixel_sizes(index.boxes, image_size), pixel_sizes(index.boxes, index.sizes[images])
    shares = (index.boxes[:, 2:].astype(np.float64) - index.boxes[:, :2]).prod(axis=1)
    shortest, longest = at_network.min(axis=1), original.max(axis=1) / np.maximum(original.min(axis=1), 1e-6)
    found: list[tuple[int, LabelProblem]] = []

    def note(box: int, kind: str, detail: str) -> None:
        name = classes[index.classes[box] - 1]
        text = f"{name} {size(*original[box])} px: {detail}"
        found.append((images[box], LabelProblem(index.names[images[box]], None, kind, text, "nothing")))

    for box in np.flatnonzero(shortest < TINY_PX):
        limit = VANISHES_PX if shortest[box] < VANISHES_PX else TINY_PX
        note(box, f"under {limit:g} px in the network", f"{size(*at_network[box])} px at the network's input")
    for box in np.flatnonzero(shares > WHOLE_IMAGE):
        note(box, "covers the image", f"covers {shares[box]:.1%} of the image")
    for box in np.flatnonzero(longest > LONGEST):
        note(box, "long and thin", f"{longest[box]:.0f} times as long as wide")
    for box in np.flatnonzero(index.difficult):
        note(box, "difficult", "marked difficult (occluded)")
    for one, other, overlap in twins(index):
        name = classes[index.classes[other] - 1]
        same = index.classes[one] == index.classes[other]
        kind = "labelled twice" if same else "two classes for one box"
        note(one, kind, f"IoU {overlap:.2f} with a box of class {name}, {size(*original[other])} px")
    # Stable: within an image the kinds stay in the order above.
    return [problem for _, problem in sorted(found, key=lambda item: item[0])]


def twins(index: ImageIndex) -> Iterator[tuple[int, int, float]]:
    """Pairs of boxes of one image that are nearly the same, with their IoU; numbers count through the index."""
    for image in np.flatnonzero(index.counts > 1):
        first = index.starts[image]
        boxes = index.boxes[first : index.starts[image + 1]].astype(np.float64)
        low, high = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
        shared = np.maximum(high - low, 0.0).prod(axis=2)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        overlaps = shared / (areas[:, None] + areas - shared)
        for one, other in np.argwhere(np.triu(overlaps > SAME_BOX, k=1)):
            yield int(first + one), int(first + other), float(overlaps[one, other])
