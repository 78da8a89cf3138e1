"""Batches from data sources, with tf.data.

The order of an epoch is a permutation by (seed, epoch) and the augmentation of a sample a function of (seed, epoch,
index), so neither depends on threads, and any epoch can be had again, from any batch on.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from ssd.data import images
from ssd.data.augment import View, choose_view, colour_transform, cut_out, move_boxes, uniforms
from ssd.data.image_header import BadImage, read_header
from ssd.data.sources import ImageIndex, _read_file, index_sources
from ssd.errors import DataError
from ssd.spec.config import Augmentation, Experiment

# Ground truth of a batch is padded to a multiple of this: few different shapes, few compilations of the training step.
PADDING = 16


class Loader:
    """The images of a list of sources as batches `(images, truth)`.

    images: float32 `(B, H, W, C)`, BGR or gray minus mean. truth: "boxes" float32 `(B, M, 4)` corners relative to the
    network input, "classes" int32 `(B, M)` with 0 for padding, "difficult" bool `(B, M)`, "index" int32 `(B,)` position
    in this loader, "size" int32 `(B, 2)` height, width of the upright image, px. The last batch may be short.

    Attributes:
        samples: images.
        steps: batches of one epoch.
    """

    def __init__(
        self,
        index: ImageIndex,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int | None = None,
        workers: int | None = None,
        prefetch: int | None = None,
    ):
        """With a `seed`, order and pixels are random (training); without, neither is."""
        self._index, self._augmentation, self._batch_size, self._seed = index, augmentation, batch_size, seed
        self._workers, self._prefetch = workers, prefetch
        self.samples = len(index)
        self.steps = -(-self.samples // batch_size)
        # Tensors that every epoch's graph shares, not constants inside it.
        self._truth = {
            name: tf.constant(getattr(index, name))
            for name in ("boxes", "classes", "difficult", "sizes", "orientations")
        }
        self._truth["starts"] = tf.constant(index.starts, tf.int32)
        flat = tf.TensorSpec((), tf.int32)
        self._plan = tf.function(self._plan_batch, [tf.TensorSpec((None,), tf.int32), flat, flat], autograph=False)

    def epoch(self, epoch: int, skip: int = 0) -> "Batches":
        """The batches of one epoch (from 0), without the first `skip` of them."""
        order = np.arange(self.samples, dtype=np.int32)
        if self._seed is not None:
            order = np.random.default_rng([self._seed, epoch]).permutation(order)
        batch = self._batch_size
        # How many objects a batch has room for is known beforehand, so samples are born padded and merely stacked.
        most = np.maximum.reduceat(self._index.counts[order], np.arange(0, self.samples, batch))
        room = (np.maximum(-(-most // PADDING), 1) * PADDING).astype(np.int32)
        order, room = order[skip * batch :], room[skip:]
        number = tf.constant(epoch, tf.int32)
        dataset = tf.data.Dataset.from_tensor_slices(order).batch(batch)
        dataset = tf.data.Dataset.zip(dataset, tf.data.Dataset.from_tensor_slices(room))
        dataset = dataset.map(lambda indices, room: self._plan(indices, room, number)).prefetch(1).unbatch()
        dataset = dataset.map(self._image, self._workers or available_cpus(), deterministic=True)
        dataset = dataset.batch(batch).prefetch(self._prefetch or 4)
        return Batches(dataset.with_options(_options(self._workers)), order, batch, self._index)

    def names(self, indices: Sequence[int]) -> list[str]:
        """What images are called in messages: a path, or a shard and a frame."""
        return [self._index.names[int(index)] for index in np.asarray(indices).reshape(-1)]

    def image_bytes(self, index: int) -> bytes:
        """The image file as it is."""
        return self._index.read(int(index))

    def _plan_batch(self, indices: tf.Tensor, room: tf.Tensor, epoch: tf.Tensor):
        """What is to be done to the pixels of each of B samples, and their ground truth, padded to `room` objects."""
        data = self._truth
        slots = tf.gather(data["starts"], indices)[:, tf.newaxis] + tf.range(room)
        present = slots < tf.gather(data["starts"], indices + 1)[:, tf.newaxis]
        slots = tf.where(present, slots, 0)
        boxes, difficult = tf.gather(data["boxes"], slots), tf.gather(data["difficult"], slots)
        sizes, orientations = tf.gather(data["sizes"], indices), tf.gather(data["orientations"], indices)
        view, colour = None, None
        if self._seed is not None:
            draws = uniforms(self._seed, epoch, indices)
            view = choose_view(draws, sizes, boxes, present, self._augmentation)
            colour = colour_transform(draws, self._augmentation)
            boxes, keep = move_boxes(boxes, sizes, view, self._augmentation)
            present &= keep
            # Objects first, in their order; padding behind them.
            places = tf.argsort(tf.cast(~present, tf.int32), axis=1, stable=True)
            boxes, difficult, present, slots = (
                tf.gather(values, places, batch_dims=1) for values in (boxes, difficult, present, slots)
            )
        truth = {
            "boxes": tf.where(present[..., tf.newaxis], boxes, 0.0),
            "classes": tf.where(present, tf.gather(data["classes"], slots), 0),
            "difficult": difficult & present,
            "index": indices,
            "size": sizes,
        }
        todo = [part for part in (orientations, view, colour) if part is not None]
        return tuple(todo), truth

    def _image(self, todo: tuple, truth: dict):
        contents = tf.numpy_function(self._index.read, [truth["index"]], tf.string, stateful=False)
        contents.set_shape(())
        if self._seed is None:
            return images.network_input(images.decode(contents, todo[0]), self._augmentation), truth
        orientation, view, colour = (*todo, None)[:3]
        return cut_out(contents, orientation, View(*view), colour, self._augmentation), truth


class Batches:
    """The batches of one epoch; iterating gives `(images, truth)`. `dataset` is the tf.data.Dataset behind it.

    Raises, while iterating:
        DataError: an image that was fine by its header and does not decode; names the file.
    """

    def __init__(self, dataset: tf.data.Dataset, order: np.ndarray, batch_size: int, index: ImageIndex):
        self.dataset, self._order, self._batch_size, self._index = dataset, order, batch_size, index

    def __len__(self) -> int:
        return -(-len(self._order) // self._batch_size)

    def __iter__(self) -> Iterator:
        iterator, done = iter(self.dataset), 0
        while True:
            try:
                batch = next(iterator, None)
            except tf.errors.OpError as error:
                raise self._explained(error, self._order[done * self._batch_size :][: self._batch_size]) from None
            if batch is None:
                return
            yield batch
            done += 1

    def _explained(self, error: tf.errors.OpError, suspects: np.ndarray) -> Exception:
        """TensorFlow says that some image of the batch failed, not which: they are tried one by one."""
        for index in suspects.tolist():
            name = self._index.names[index]
            try:
                contents = self._index.read(index)
            except DataError as unreadable:
                return unreadable
            reason = decoding_fault(contents)
            if reason is None:
                header = read_header(contents)
                if (header.height, header.width) != tuple(self._index.sizes[index]):
                    reason = "the image changed since the start of this run"
            if reason:
                hint = "remove it or replace it, and run again; a training run goes on with --resume"
                return DataError(reason, where=name, hint=hint)
        return error


def training_loader(spec: Experiment, *, batch_size: int, deterministic: bool = False) -> Loader:
    """Shuffled, augmented batches of the training data.

    Args:
        deterministic: nothing changes: the batches are the same in every run anyway, whatever the threads do.

    Raises:
        DataError, Problems: see `index_sources`.
    """
    index = index_sources(spec.dataset.training, spec.dataset, "training")
    workers, prefetch = (spec.training.workers, spec.training.prefetch) if spec.training else (None, None)
    return Loader(
        index,
        spec.augmentation,
        batch_size=batch_size,
        seed=spec.random_seed,
        workers=workers,
        prefetch=prefetch,
    )


def evaluation_loader(spec: Experiment, *, batch_size: int) -> Loader:
    """The validation data in their order, resized only. Raises DataError, Problems: see `index_sources`."""
    index = index_sources(spec.dataset.validation, spec.dataset, "validation")
    return Loader(index, spec.augmentation, batch_size=batch_size)


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
        dataset = dataset.batch(self._batch_size).prefetch(4).with_options(_options(None))
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
        contents = _read_file(self._paths[index])
        return contents, np.int32(read_header(contents).orientation)

    def _report(self, missing: range) -> None:
        for index in missing:
            path = self._paths[index]
            try:
                reason = decoding_fault(_read_file(path)) or "it could not be read a moment ago"
                self.problems.append(f"{path}: {reason}")
            except DataError as error:
                self.problems.append(str(error))


def image_loader(paths: Sequence[str], augmentation: Augmentation, *, batch_size: int) -> ImageLoader:
    """See `ImageLoader`."""
    return ImageLoader(paths, augmentation, batch_size)


def decoding_fault(contents: bytes) -> str | None:
    """Why image bytes do not decode, or None where they do."""
    try:
        read_header(contents)
        images.decode(tf.constant(contents))
    except BadImage as error:
        return str(error)
    except tf.errors.OpError:
        return "the image is damaged: its header is fine and its pixels do not decode"
    return None


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _options(workers: int | None) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # Samples are the unit of parallelism; splitting the small ops of one sample over threads only adds hand-overs.
    options.threading.max_intra_op_parallelism = 1
    if workers:
        options.threading.private_threadpool_size = workers
    # The amounts of parallelism are given: nothing is left to tune, and its thread can stay asleep.
    options.autotune.enabled = False
    return options
