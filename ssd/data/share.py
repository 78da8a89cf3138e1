"""Which rows of every batch are this process's: devices that train together have equal parts of it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Share:
    """Place of this process among those that train together; process i has the i-th part of every batch.

    `devices` are those of all processes together, as many on each. A batch that they do not divide is filled up with
    rows that mean nothing, which the step leaves out again (`ssd.training.shapes`): no image is lost or counted twice.
    """

    process: int = 0
    processes: int = 1
    devices: int = 1

    def rows(self, images: int) -> slice:
        """This process's rows of a batch of `images`; those from `images` on are fillers."""
        own = -(-images // self.devices) * self.devices // self.processes
        return slice(self.process * own, (self.process + 1) * own)

    def of(self, batch: dict[str, np.ndarray], images: int) -> dict[str, np.ndarray]:
        """The own rows of arrays that have one row for each of `images`, fillers among them."""
        rows = self.rows(images)
        own = {name: np.asarray(values)[rows] for name, values in batch.items()}
        return {name: filled(values, rows.stop - rows.start) for name, values in own.items()}


def filled(values: np.ndarray, rows: int) -> np.ndarray:
    """With zeros behind, up to `rows` rows."""
    return np.pad(values, [(0, rows - len(values))] + [(0, 0)] * (values.ndim - 1))


ALONE = Share()
