"""The data of a spec as batches: for training, for evaluation, and image files for inference."""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from ssd.data import images
from ssd.data.image_header import BadImage, read_header
from ssd.data.loader import Loader, available_cpus, dataset_options
from ssd.data.share import ALONE, Share
from ssd.data.sources import ImageIndex, index_sources, read_file
from ssd.errors import DataError
from ssd.spec.config import Augmentation, Experiment


def training_index(spec: Experiment) -> ImageIndex:
    """The training data. Raises DataError, Problems: see `index_sources`."""
    return index_sources(spec.dataset.training, spec.dataset, "training")


def training_loader(
    spec: Experiment,
    *,
    batch_size: int,
    share: Share = ALONE,
    index: ImageIndex | None = None,
) -> Loader:
    """Shuffled, augmented batches of the training data.

    Args:
        index: the training data, where they were looked at before.

    Raises:
        DataError, Problems: see `index_sources`.
    """
    index = training_index(spec) if index is None else index
    workers, prefetch = (spec.training.workers, spec.training.prefetch) if spec.training else (None, None)
    return Loader(
        index,
        spec.augmentation,
        batch_size=batch_size,
        seed=spec.random_seed,
        workers=workers,
        prefetch=prefetch,
        share=share,
    )


def evaluation_loader(spec: Experiment, *, batch_size: int, share: Share = ALONE) -> Loader:
    """The validation data in their order, resized only. Raises DataError, Problems: see `index_sources`."""
    index = index_sources(spec.dataset.validation, spec.dataset, "validation")
    return Loader(index, spec.augmentation, batch_size=batch_size, share=share)


class ImageLoader:
    """Batches `(images, indices, sizes)` of image files, for inference.

    images float32 `(B, H, W, C)`; indices int32 `(B,)` into `paths`; sizes int32 `(B, 2)` height, width of the upright
    images, px. An image that cannot be read is left out; once iteration has passed it, `problems` has a line about it.
    """

    def __init__(self, paths: Sequence[str], augmentation: Augmentation, batch_size: int):
        self._paths, self._augmentation, self._batch_size = [str(path) for path in paths], augmentation, batch_size
        self.samples = len(self._paths)
        self.problems: list[str] = []

    def __iter__(self) -> Iterator[tuple[tf.Tensor, np.ndarray, np.ndarray]]:
        self.problems.clear()
        dataset = tf.data.Dataset.range(self.samples, output_type=tf.int32)
        dataset = dataset.map(self._image, available_cpus(), deterministic=True).ignore_errors()
        dataset = dataset.batch(self._batch_size).prefetch(4).with_options(dataset_options(None))
        expected = 0
        for pixels, indices, sizes in dataset:
            indices = indices.numpy()
            for index in indices.tolist():
                self._report(range(expected, index))
                expected = index + 1
            yield pixels, indices, sizes.numpy()
        self._report(range(expected, self.samples))

    def _image(self, index: tf.Tensor):
        contents, orientation = tf.numpy_function(self._read, [index], (tf.string, tf.int32))
        contents.set_shape(())
        orientation.set_shape(())
        rgb = images.decode(contents, orientation)
        return images.network_input(rgb, self._augmentation), index, tf.shape(rgb)[:2]

    def _read(self, index: np.int32) -> tuple[bytes, np.int32]:
        try:
            contents = read_file(self._paths[index])
            return contents, np.int32(read_header(contents).orientation)
        except (DataError, BadImage):
            # An error from here TensorFlow prints with a traceback; nothing does not decode, and `_report` says why.
            return b"", np.int32(1)

    def _report(self, missing: range) -> None:
        for index in missing:
            path = self._paths[index]
            try:
                reason = images.decoding_fault(read_file(path)) or "it could not be read a moment ago"
                self.problems.append(f"{path}: {reason}")
            except DataError as error:
                self.problems.append(str(error))


def image_loader(paths: Sequence[str], augmentation: Augmentation, *, batch_size: int) -> ImageLoader:
    """See `ImageLoader`."""
    return ImageLoader(paths, augmentation, batch_size)
