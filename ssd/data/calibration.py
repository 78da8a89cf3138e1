"""Pictures to calibrate with: prepared as evaluation prepares them, or read from the original's tensor file.

A tensor file is HDF5: attribute `count`, and for batch i a group `_tensorfile_array_key__{i}` with one array
`_tensorfile_array_key_`, `(B,C,H,W)`.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ssd.data.sources import EXTENSIONS
from ssd.errors import DataError, InputError, raise_all
from ssd.files import whole_file
from ssd.spec.config import Augmentation

ARRAY = "_tensorfile_array_key_"


def choose_images(folder: str, count: int, seed: int) -> list[Path]:
    """`count` images of a folder, drawn without repetition, in the order of their names.

    Raises:
        InputError: no such folder, or fewer images in it.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise InputError(f"--cal_image_dir {folder}: no such folder")
    found = sorted(name for name in path.iterdir() if name.suffix.lower() in EXTENSIONS and name.is_file())
    if len(found) < count:
        raise InputError(
            f"--cal_image_dir {folder}: {len(found)} images ({' '.join(EXTENSIONS)}), {count} are needed",
            hint="lower --batches or --batch_size, or add images",
        )
    return sorted(random.Random(seed).sample(found, count))


def image_batches(paths: list[Path], augmentation: Augmentation, batch_size: int) -> Iterator[np.ndarray]:
    """Batches `(B,H,W,C)` float32 of network input.

    Raises:
        DataError, Problems: images that cannot be read; all of them, after the last batch.
    """
    from ssd.data.pipeline import image_loader

    loader = image_loader([str(path) for path in paths], augmentation, batch_size=batch_size)
    for images, _, _ in loader:
        yield np.asarray(images)
    hint = "move it elsewhere, or name another folder: ranges are only as good as the pictures"
    raise_all([DataError(text, hint=hint) for text in loader.problems])


def write_tensors(path: str | Path, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Passes batches `(B,H,W,C)` on and writes them to a tensor file, which appears when the last one has passed."""
    import h5py

    with whole_file(Path(path).expanduser()) as temporary, h5py.File(temporary, "w") as file:
        count = 0
        for count, images in enumerate(batches, start=1):
            group = file.create_group(f"{ARRAY}_{count - 1}")
            # Numbers of eight bytes, as the original writes them.
            group.create_dataset(ARRAY, data=images.transpose(0, 3, 1, 2).astype(np.float64), compression="gzip")
            yield images
        file.attrs["count"] = count


def read_tensors(path: str | Path, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """The batches of a tensor file, `(B,H,W,C)` float32.

    Args:
        shape: height, width, channels of the network input.

    Raises:
        InputError: no tensor file, damaged, or of images of another size.
    """
    import h5py

    where = str(path)
    try:
        with h5py.File(Path(path).expanduser(), "r") as file:
            for index in range(int(file.attrs["count"])):
                batch = file[f"{ARRAY}_{index}"][ARRAY][()]
                images = np.asarray(batch, np.float32).transpose(0, 2, 3, 1)
                if images.shape[1:] != tuple(shape):
                    raise InputError(
                        f"its images are {'x'.join(map(str, images.shape[1:]))} (height, width, channels), "
                        f"the network takes {'x'.join(map(str, shape))}",
                        where=where,
                        hint="delete it: it is written anew from --cal_image_dir",
                    )
                yield images
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError("no tensor file, or a damaged one", where=where) from error
