"""TensorBoard event files, written with TensorBoard's own writer."""

import io
import time
from pathlib import Path

import numpy as np

from ssd.console import warn
from ssd.spec.config import Augmentation, Visualizer
from ssd.training.history import EXTRA


class Board:
    """`results_dir/events`. Writes nothing where the spec has no visualizer or TensorBoard is not installed."""

    def __init__(self, folder: Path, visualizer: Visualizer | None):
        self.visualizer = visualizer
        self._writer = None
        if visualizer is None:
            return
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            warn("visualizer: TensorBoard files are not written, since the package tensorboard is not installed")
            return
        self._writer = EventFileWriter(str(folder))

    def scalars(self, step: int, values: dict[str, float | None]) -> None:
        """One point for each value that is there."""
        for tag, value in values.items():
            if value is not None:
                self._add(step, tag=tag, simple_value=value)

    def epoch(self, row: dict) -> None:
        """The row of an epoch, at the epoch's number."""
        own = {name: row.get(name) for name in EXTRA[:3]}
        aps = {name: value for name, value in row.items() if name.startswith("AP_")}
        self.scalars(row["epoch"], {"mAP": row.get("mAP"), "validation_loss": row.get("validation_loss")})
        self.scalars(row["epoch"], {"epoch_loss": row["loss"], "epoch_lr": row["lr"], **own, **aps})
        self.flush()

    def wants_images(self) -> bool:
        return self._writer is not None and self.visualizer.num_images > 0

    def images(self, epoch: int, pixels: dict, truth: dict, classes: tuple[str, ...], augmentation: Augmentation):
        """The first `num_images` of a training batch, as the network sees them, with the boxes they were left."""
        from keras import ops

        from ssd.training.pixels import network_input
        from ssd.visualize import draw

        few = {name: np.asarray(values)[: self.visualizer.num_images] for name, values in pixels.items()}
        for number, image in enumerate(ops.convert_to_numpy(network_input(few, augmentation))):
            real = np.asarray(truth["classes"][number]) > 0
            picture = picture_of(image, augmentation)
            boxes = np.asarray(truth["boxes"][number])[real] * np.tile([picture.width, picture.height], 2)
            labels = [classes[index - 1] for index in np.asarray(truth["classes"][number])[real]]
            self._add_image(epoch, f"batch_imgs/{number}", draw(picture, boxes, labels))

    def wants_histograms(self) -> bool:
        return self._writer is not None and self.visualizer.weight_histograms

    def histograms(self, epoch: int, model) -> None:
        """One histogram per weight."""
        from keras import ops

        for weight in model.weights:
            self._add_histogram(epoch, f"weights/{weight.path}", ops.convert_to_numpy(weight))

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, step: int, **value) -> None:
        if self._writer is None:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(**value)])
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _add_image(self, step: int, tag: str, picture) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        image = Summary.Image(
            height=picture.height, width=picture.width, colorspace=3, encoded_image_string=buffer.getvalue()
        )
        self._add(step, tag=tag, image=image)

    def _add_histogram(self, step: int, tag: str, values: np.ndarray) -> None:
        from tensorboard.compat.proto.histogram_pb2 import HistogramProto

        values = np.asarray(values, np.float64).ravel()
        counts, edges = np.histogram(values, bins=30)
        histogram = HistogramProto(
            min=values.min(),
            max=values.max(),
            num=values.size,
            sum=values.sum(),
            sum_squares=np.square(values).sum(),
            bucket_limit=edges[1:],
            bucket=counts,
        )
        self._add(step, tag=tag, histo=histogram)


def picture_of(image: np.ndarray, augmentation: Augmentation):
    """A network input `(H, W, C)` as the picture it was: mean added, BGR turned into RGB."""
    from PIL import Image

    pixels = np.clip(np.rint(image + np.asarray(augmentation.mean, np.float32)), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0]) if augmentation.channels == 1 else Image.fromarray(pixels[..., ::-1].copy())
