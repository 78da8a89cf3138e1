import numpy as np
import pytest

from ssd.training.shapes import boxes_and_classes, keyed


@pytest.mark.parametrize(("rows", "room"), [(16, 16), (32, 32), (48, 64), (80, 128)])
def test_the_keys_name_the_padded_shape(rows, room):
    rng = np.random.default_rng(0)
    truth = {"boxes": rng.random((3, rows, 4), np.float32), "classes": np.ones((3, rows), np.int32)}
    batch = keyed({**truth, "index": np.arange(3)})
    assert sorted(batch) == [f"boxes 3x{room}", f"classes 3x{room}"]
    boxes, classes = boxes_and_classes({"images": None, **batch})
    assert boxes.shape == (3, room, 4)
    assert np.array_equal(boxes[:, :rows], truth["boxes"])
    assert np.array_equal(classes[:, :rows], truth["classes"])
    assert not classes[:, rows:].any()
