import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd.data.share import ALONE, Share


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 50))
def test_every_image_is_somebodys_and_nobody_elses(processes, devices_each, images):
    devices = processes * devices_each
    shares = [Share(process, processes, devices) for process in range(processes)]
    rows = [share.rows(images) for share in shares]
    sizes = {part.stop - part.start for part in rows}
    assert len(sizes) == 1 and sizes.pop() % devices_each == 0
    assert [index for part in rows for index in range(part.start, part.stop)][:images] == list(range(images))
    assert rows[-1].stop - images < devices  # fillers
    whole = np.arange(1, images + 1, dtype=np.int32)
    parts = np.concatenate([share.of({"index": whole}, images)["index"] for share in shares])
    assert parts[:images].tolist() == whole.tolist() and not parts[images:].any()


@pytest.mark.parametrize("images", [1, 7, 8])
def test_alone_has_all_and_no_fillers(images):
    assert ALONE.rows(images) == slice(0, images)
