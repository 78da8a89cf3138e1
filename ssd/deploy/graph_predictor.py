"""Detections from an exported graph, whatever runs it: its input, its batches, NMS where it has none."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from ssd.boxes.nms import Detections, suppress
from ssd.deploy.onnx_metadata import Metadata
from ssd.deploy.onnx_names import BOXES, SCORES
from ssd.deploy.onnx_nms import OUTPUTS
from ssd.errors import ModelError
from ssd.spec.config import Experiment, Nms


@dataclass(frozen=True)
class Runner:
    """Something that runs a graph.

    Args:
        run: the input as the graph takes it -> outputs by name.
        batch: images of every call, where the graph has a fixed batch; None: any number up to `largest`.
        largest: most images of a call; None: any number.
    """

    run: Callable[[np.ndarray], dict[str, np.ndarray]]
    batch: int | None = None
    largest: int | None = None


class GraphPredictor:
    """`predict(images) -> detections` over a `Runner`.

    Args:
        runner: of the graph.
        metadata: of the graph.
        spec: what the network was trained with, and the NMS to apply where the graph has none.
    """

    def __init__(self, runner: Runner, metadata: Metadata, spec: Experiment):
        self.runner = runner
        self.metadata = metadata
        self.spec = spec
        self._suppress = _Suppressor(spec.nms) if metadata.nms == "none" else None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; detections count them from 1."""
        return self.spec.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels of the network input."""
        return self.metadata.input_size

    def predict(self, images) -> Detections:
        """Detections of a batch, as numpy arrays.

        Args:
            images: `(B,H,W,C)` float32, as `ssd.data.images` makes the network input.

        Raises:
            ModelError: images of another size than the network's.
        """
        images = np.asarray(images, dtype="float32")
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            raise ModelError(f"images of shape {images.shape} do not fit the network input {('B', *self.input_shape)}")
        inputs = graph_input(images, self.metadata.pixels, self.metadata.mean)
        size = self.runner.batch or self.runner.largest or len(inputs)
        parts = [self._run(inputs[start : start + size]) for start in range(0, len(inputs), size)]
        return Detections(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _run(self, inputs: np.ndarray) -> Detections:
        count = len(inputs)
        if self.runner.batch:
            missing = self.runner.batch - count
            inputs = np.concatenate([inputs, np.zeros((missing, *inputs.shape[1:]), inputs.dtype)])
        outputs = self.runner.run(inputs)
        if self._suppress is not None:
            found = self._suppress(outputs[BOXES], outputs[SCORES])
        else:
            found = _fixed_rows(outputs, first_class=0 if self.metadata.nms == "efficient_nms" else 1)
        return Detections(*(part[:count] for part in found))


def graph_input(images: np.ndarray, pixels: bool, mean: tuple[float, ...]) -> np.ndarray:
    """The network's input as the graph wants it: channels first, or the pixels before preprocessing.

    Pixels of a resized picture are fractions; a graph that takes uint8 gets them rounded.

    Args:
        images: `(B,H,W,C)` float32, BGR (or gray) minus mean.
        pixels: whether the graph takes uint8 RGB.
    """
    if not pixels:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    bytes_ = np.clip(np.rint(images + np.array(mean, "float32")), 0, 255).astype(np.uint8)
    return np.repeat(bytes_, 3, axis=-1) if bytes_.shape[-1] == 1 else np.ascontiguousarray(bytes_[..., ::-1])


def _fixed_rows(outputs: dict[str, np.ndarray], first_class: int) -> Detections:
    """The four outputs of NMS in the graph; rows behind the number of detections are emptied."""
    counts, boxes, scores, classes = (outputs[name] for name in OUTPUTS)
    valid = counts.reshape(-1).astype(np.int32)
    real = np.arange(scores.shape[1])[None, :] < valid[:, None]
    return Detections(
        boxes=np.where(real[..., None], np.clip(boxes, 0, 1), 0).astype(np.float32),
        scores=np.where(real, scores, 0).astype(np.float32),
        classes=np.where(real, classes.astype(np.int32) + (1 - first_class), 0),
        valid=valid,
    )


class _Suppressor:
    """NMS as the Keras predictor does it, compiled, on decoded boxes."""

    def __init__(self, nms: Nms):
        class Model(keras.Model):
            def call(self, inputs):
                return suppress(
                    *inputs,
                    confidence_threshold=nms.confidence_threshold,
                    iou_threshold=nms.iou_threshold,
                    top_k=nms.top_k,
                )._asdict()

        self._model = Model()
        # TensorFlow's own kernels beat XLA's on CPUs; on JAX there is nothing but XLA.
        self._model.compile(jit_compile=keras.backend.backend() != "tensorflow")
        self._batch = 0

    def __call__(self, boxes: np.ndarray, scores: np.ndarray) -> Detections:
        # A short last batch is filled up, so that it needs no compilation of its own.
        count = len(boxes)
        self._batch = max(self._batch, count)
        padding = [(0, self._batch - count), (0, 0), (0, 0)]
        found = self._model.predict_on_batch([np.pad(boxes, padding), np.pad(scores, padding)])
        return Detections(**{name: np.asarray(value)[:count] for name, value in found.items()})
