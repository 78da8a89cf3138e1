"""Batches of an image index, by tf.data: what `training_loader` and `evaluation_loader` return.

The order of an epoch is a permutation by (seed, epoch) and the augmentation of a sample a function of (seed, epoch,
index), so neither depends on threads, and any epoch can be had again, from any batch on.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from ssd.data import images
from ssd.data.augment import View, choose_view, colour_transform, covered_by, cut_out, move_boxes, render, uniforms
from ssd.data.cache import PixelCache, in_folder, in_memory
from ssd.data.image_header import read_header
from ssd.data.share import ALONE, Share
from ssd.data.sources import ImageIndex
from ssd.errors import DataError
from ssd.spec.config import Augmentation

# Ground truth of a batch is padded to a multiple of this: few different shapes, few compilations of the training step.
PADDING = 16
# Graphs are written as such; AutoGraph would only take time to find nothing to convert.
_PLAIN = tf.autograph.experimental.do_not_convert


class Loader:
    """The images of a list of sources as batches `(images, truth)`.

    images: float32 `(B, H, W, C)`, BGR or gray minus mean. In training a dictionary that the step makes them of
    (`ssd.training.pixels`): "rgb" uint8 `(B, H, W, 3)`, "colour" float32 `(B, 4, 3)` of `colour_transform`, "covered"
    int32 `(B, 4)` of `covered_by`.

    truth: "boxes" float32 `(B, M, 4)` corners relative to the network input, "classes" int32 `(B, M)` with 0 for
    padding, "difficult" bool `(B, M)`, "index" int32 `(B,)` position in this loader, "size" int32 `(B, 2)` height,
    width of the upright image, px. The last batch may be short.

    Where several processes or devices share the batches, all have the rows of `share` alone, fillers behind them, but
    for "index", which names the images of the whole batch, and the truth of evaluation, which is all of it.

    Attributes:
        index: what the batches are made of.
        samples: images.
        steps: batches of one epoch.
        batch_size: images of a whole batch.
        share: which rows of it this process has.
        augmentation: the network input, and what happens at random.
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
        share: Share = ALONE,
    ):
        """With a `seed`, order and pixels are random (training); without, neither is."""
        self.index, self.augmentation, self.batch_size, self._seed = index, augmentation, batch_size, seed
        self._workers, self._prefetch, self.share = workers, prefetch, share
        rows = share.rows(batch_size)
        self._own = rows.stop - rows.start
        self._running: tuple[int, Iterator] | None = None
        self.samples = len(index)
        self.steps = -(-self.samples // batch_size)
        with tf.device("CPU:0"):  # where tf.data works; not in a GPU's memory
            self._truth = {
                name: tf.constant(getattr(index, name))
                for name in ("boxes", "classes", "difficult", "sizes", "orientations")
            }
            self._truth["starts"] = tf.constant(index.starts, tf.int32)
            self._files, self._in_record = tf.constant(index.files), tf.constant(index.spans[:, 1] >= 0)
        self._cache: PixelCache | None = None

    def keep_decoded(self, where: str | Path) -> None:
        """Keeps decoded images from now on, in "memory" or a folder; what is not there yet is decoded now.

        Raises:
            DataError: there is no room for it, or an image does not decode. InputError: the folder cannot be written.
        """
        if where == "memory":
            self._cache = in_memory(self.index, self._decoded)
        else:
            self._cache = in_folder(Path(where), self.index, self._decoded)

    def epoch(self, epoch: int, skip: int = 0) -> "Batches":
        """The batches of one epoch (from 0), without the first `skip` of them."""
        return Batches(self, epoch, skip)

    def names(self, indices: Sequence[int]) -> list[str]:
        """What images are called in messages: a path, or a shard and a frame."""
        return [self.index.names[int(index)] for index in np.asarray(indices).reshape(-1)]

    def image_bytes(self, index: int) -> bytes:
        """The image file as it is."""
        return self.index.read(int(index))

    def fault(self, indices: Sequence[int]) -> DataError | None:
        """What is wrong with the first of these images that does not decode now; None where all do."""
        for index in map(int, indices):
            try:
                contents = self.index.read(index)
            except DataError as unreadable:
                return unreadable
            reason = images.decoding_fault(contents)
            if reason is None:
                header = read_header(contents)
                if (header.height, header.width) != tuple(self.index.sizes[index]):
                    reason = "the image changed since the start of this run"
            if reason:
                hint = "remove it or replace it, and run again; a training run goes on with --resume"
                return DataError(reason, where=self.index.names[index], hint=hint)
        return None

    def plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Image indices int32 `(steps, batch size)`, -1 behind the last; room for objects in each batch, int32."""
        order = np.full(self.steps * self.batch_size, -1, np.int32)
        order[: self.samples] = np.arange(self.samples)
        if self._seed is not None:
            order[: self.samples] = np.random.default_rng([self._seed % 2**63, epoch]).permutation(self.samples)
        order = order.reshape(self.steps, self.batch_size)
        most = np.where(order < 0, 0, self.index.counts[order]).max(axis=1)
        return order, (np.maximum(-(-most // PADDING), 1) * PADDING).astype(np.int32)

    def _own_plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The columns of `plan_epoch` that are this process's; -1 where it has fillers."""
        order, room = self.plan_epoch(epoch)
        own = np.full((self.steps, self._own), -1, np.int32)
        for step, indices in enumerate(order):
            part = indices[indices >= 0]
            part = part[self.share.rows(len(part))]
            own[step, : len(part)] = part
        return own, room

    def truth(self, indices: np.ndarray) -> dict[str, np.ndarray] | None:
        """The ground truth of a whole batch as it is, without augmentation; None in training."""
        if self._seed is not None:
            return None
        index, counts = self.index, self.index.counts[indices]
        room = max(-(-int(counts.max()) // PADDING), 1) * PADDING
        slots = index.starts[indices, np.newaxis] + np.arange(room)
        present = np.arange(room) < counts[:, np.newaxis]

        def padded(values: np.ndarray) -> np.ndarray:
            rows = np.zeros((*present.shape, *values.shape[1:]), values.dtype)
            rows[present] = values[slots[present]]
            return rows

        truth = {name: padded(getattr(index, name)) for name in ("boxes", "classes", "difficult")}
        return {**truth, "index": indices, "size": index.sizes[indices]}

    def take_stream(self, epoch: int, skip: int) -> Iterator:
        """An iterator whose next batch is number `skip` of `epoch`; the running one where that is just there."""
        running, self._running = self._running, None
        if running is not None and running[0] == epoch and skip == 0:
            return running[1]
        return iter(self._stream(epoch, skip))

    def leave_stream(self, epoch: int, stream: Iterator) -> None:
        """Keeps an iterator that has come to the start of `epoch`."""
        if self._seed is not None:
            self._running = (epoch, stream)

    def _stream(self, epoch: int, skip: int) -> tf.data.Dataset:
        """The batches from `skip` of `epoch` on. Those of training run on through the epochs after it: the first
        batches of an epoch are being made while the one before ends, and no graph is built again."""
        end = np.iinfo(np.int32).max if self._seed is not None else epoch + 1
        dataset = tf.data.Dataset.range(epoch, end, output_type=tf.int32).flat_map(self._epoch_plan).skip(skip)
        dataset = dataset.map(self._plan).prefetch(1).unbatch()
        dataset = dataset.map(self._image, self._workers or available_cpus(), deterministic=True)
        dataset = dataset.batch(self._own).prefetch(self._prefetch or 4)
        return dataset.with_options(dataset_options(self._workers))

    @_PLAIN
    def _epoch_plan(self, epoch: tf.Tensor) -> tf.data.Dataset:
        """One element a batch: indices, room, epoch."""
        order, room = tf.numpy_function(self._own_plan, [epoch], (tf.int32, tf.int32), stateful=False)
        order.set_shape((self.steps, self._own))
        room.set_shape((self.steps,))
        return tf.data.Dataset.from_tensor_slices((order, room, tf.fill([self.steps], epoch)))

    @_PLAIN
    def _plan(self, indices: tf.Tensor, room: tf.Tensor, epoch: tf.Tensor):
        """What is to be done to the pixels of each of B samples, and their ground truth, padded to `room` objects."""
        data, wanted = self._truth, indices
        indices = tf.maximum(wanted, 0)
        slots = tf.gather(data["starts"], indices)[:, tf.newaxis] + tf.range(room)
        present = slots < tf.gather(data["starts"], indices + 1)[:, tf.newaxis]
        slots = tf.where(present, slots, 0)
        boxes, difficult = tf.gather(data["boxes"], slots), tf.gather(data["difficult"], slots)
        sizes = tf.gather(data["sizes"], indices)
        todo = {}
        if self._seed is not None:
            draws = uniforms(self._seed, epoch, indices)
            view = choose_view(draws, sizes, boxes, present, self.augmentation)
            colour, covered = colour_transform(draws, self.augmentation), covered_by(view, self.augmentation)
            orientation = tf.gather(data["orientations"], indices)
            todo = {"orientation": orientation, "view": tuple(view), "colour": colour, "covered": covered}
            boxes, keep = move_boxes(boxes, sizes, view, self.augmentation)
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
            "index": wanted,
            "size": sizes,
        }
        return todo, truth

    @_PLAIN
    def _image(self, todo: dict, truth: dict):
        """Adds the pixels to one sample; the fillers of a short batch cost nothing."""
        index, (height, width) = truth["index"], (self.augmentation.height, self.augmentation.width)
        if self._seed is None:
            empty = tf.zeros((height, width, self.augmentation.channels))
            return tf.cond(index < 0, lambda: empty, lambda: self._resized(index)), truth
        empty = tf.zeros((height, width, 3), tf.uint8)
        rgb = tf.cond(index < 0, lambda: empty, lambda: self._augmented(index, todo))
        return {"rgb": rgb, "colour": todo["colour"], "covered": todo["covered"]}, truth

    def _resized(self, index: tf.Tensor) -> tf.Tensor:
        return images.network_input(self._decode(index), self.augmentation)

    def _augmented(self, index: tf.Tensor, todo: dict) -> tf.Tensor:
        view, covered = View(*todo["view"]), todo["covered"]
        if self._cache is not None:
            return render(self._cache.window(index, view.window), view, covered, self.augmentation)
        return cut_out(self._contents(index), todo["orientation"], view, covered, self.augmentation)

    def _decode(self, index: tf.Tensor) -> tf.Tensor:
        """A whole upright image, uint8 `(h, w, 3)`."""
        if self._cache is not None:
            return self._cache.image(index)
        return images.decode(self._contents(index), self._truth["orientations"][index])

    def _contents(self, index: tf.Tensor) -> tf.Tensor:
        # An image file is read without Python and its lock; a record's part of a file can only be had with it.
        contents = tf.cond(
            self._in_record[index],
            lambda: tf.numpy_function(self._record, [index], tf.string, stateful=False),
            lambda: tf.io.read_file(self._files[index]),
        )
        contents.set_shape(())
        return contents

    def _decoded(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Whole upright images in this order. Raises DataError naming the one that does not decode."""
        dataset = tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int32))
        dataset = dataset.map(_PLAIN(self._decode), self._workers or available_cpus(), deterministic=True).prefetch(4)
        stream = iter(dataset.with_options(dataset_options(self._workers)))
        for index in indices:
            try:
                image = next(stream).numpy()
            except tf.errors.OpError as error:
                raise self.fault([index]) or error from None
            if image.shape[:2] != tuple(self.index.sizes[index]):
                raise self.fault([index]) or DataError("the image changed just now", where=self.index.names[index])
            yield image

    def _record(self, index: np.int32) -> bytes:
        try:
            return self.index.read(int(index))
        except DataError:
            return b""  # does not decode either, without TensorFlow's traceback; `fault` reads again and says why


class Batches:
    """The batches of one epoch; iterating gives `(images, truth)`.

    Raises, while iterating:
        DataError: an image that was fine by its header and does not decode; names the file.
    """

    def __init__(self, loader: Loader, epoch: int, skip: int):
        self._loader, self._epoch, self._skip = loader, epoch, skip

    def __len__(self) -> int:
        return max(self._loader.steps - self._skip, 0)

    def __iter__(self) -> Iterator:
        if not len(self):
            return
        order, _ = self._loader.plan_epoch(self._epoch)
        stream = self._loader.take_stream(self._epoch, self._skip)
        for step in range(self._skip, len(order)):
            indices = order[step][order[step] >= 0]
            try:
                pixels, truth = next(stream)
            except tf.errors.OpError as error:
                # TensorFlow says that some image of the batch failed, not which.
                raise self._loader.fault(indices) or error from None
            rows = self._loader.share.rows(len(indices))
            if (own := rows.stop - rows.start) < len(truth["index"]):
                pixels, truth = tf.nest.map_structure(lambda values: values[:own], (pixels, truth))
            if self._loader.share != ALONE:
                truth = self._loader.truth(indices) or {**truth, "index": indices}
            if step == len(order) - 1:
                self._loader.leave_stream(self._epoch + 1, stream)
            yield pixels, truth


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def dataset_options(workers: int | None) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # Samples are the unit of parallelism; splitting the small ops of one sample over threads only adds hand-overs.
    options.threading.max_intra_op_parallelism = 1
    if workers:
        options.threading.private_threadpool_size = workers
    # The amounts of parallelism are given: nothing is left to tune, and its thread can stay asleep.
    options.autotune.enabled = False
    return options
