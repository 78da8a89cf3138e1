"""One interface over every kind of model file: network input in, detections out."""

import dataclasses
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from ssd import console
from ssd.boxes.nms import Detections, detect
from ssd.deploy.graph_predictor import GraphPredictor
from ssd.errors import InputError, ModelError
from ssd.models.checkpoint import load_model
from ssd.models.detector import anchors_for, num_classes
from ssd.spec.config import Experiment, Nms

ENGINE_MARKS = (b"ftrt", b"ptrt", b"vtrt")  # of TensorRT and TensorRT-RTX
ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


class KerasPredictor:
    """Runs a Keras detector, decoding and NMS in one compiled function, on any backend.

    Args:
        model: the network, in the precision it shall run in.
        spec: what the network was trained with, and the NMS to apply.
    """

    def __init__(self, model: keras.Model, spec: Experiment):
        self.model = model
        self.spec = spec
        self._run = _Detector(model, anchors_for(model, spec), spec.network.variances, spec.nms)
        # TensorFlow's own kernels beat XLA's on CPUs; on JAX there is nothing but XLA.
        self._run.compile(jit_compile=keras.backend.backend() != "tensorflow")
        self._batch_size = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; detections count them from 1."""
        return self.spec.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels of the network input."""
        return tuple(self.model.input_shape[1:])

    def predict(self, images) -> Detections:
        """Detections of a batch, as numpy arrays.

        Args:
            images: `(B,H,W,C)` float32, as `ssd.data.images` makes the network input. A batch smaller than one before
                is filled up and the result trimmed, so that the last batch of a set needs no compilation of its own.

        Raises:
            ModelError: images of another size than the network's.
        """
        images = np.asarray(images, dtype="float32")
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            raise ModelError(f"images of shape {images.shape} do not fit the network input {('B', *self.input_shape)}")
        count = len(images)
        self._batch_size = max(self._batch_size, count)
        if count < self._batch_size:
            images = np.pad(images, [(0, self._batch_size - count), (0, 0), (0, 0), (0, 0)])
        found = self._run.predict_on_batch(images)
        return Detections(**{name: np.asarray(value)[:count] for name, value in found.items()})


class _Detector(keras.Model):
    """A network with decoding and NMS behind it; never saved."""

    def __init__(self, network: keras.Model, anchors: np.ndarray, variances, nms: Nms):
        super().__init__(name="detections")
        self.network = network
        self._detect: Callable = lambda outputs: detect(
            outputs["class_logits"],
            outputs["offsets"],
            anchors,
            variances,
            confidence_threshold=nms.confidence_threshold,
            iou_threshold=nms.iou_threshold,
            top_k=nms.top_k,
        )

    def call(self, images):
        return self._detect(self.network(images, training=False))._asdict()


Predictor = KerasPredictor | GraphPredictor


def load_predictor(
    path: str | os.PathLike,
    experiment: Experiment | None = None,
    *,
    verb: str = "inference",
    precision: str = "float32",
    provider: str | None = None,
) -> Predictor:
    """Opens a model file for prediction.

    Args:
        path: a `.keras` file, TAO's `.hdf5`, an `.onnx` graph or an engine that `ssd export` wrote.
        experiment: overrides the NMS, evaluation and data settings stored in the model; the network and its input are
            the model's own, and a warning names what differs. TAO's models store no settings: all are taken from here.
        verb: what the stored spec must serve where `experiment` is None.
        precision: of a Keras network; graphs and engines have theirs.
        provider: what runs an ONNX graph, see `ssd.deploy.onnx_session`.

    Raises:
        ModelError: the file cannot be used, or is for other classes or another input than `experiment`.
    """
    verb = verb if experiment is None else "inference"
    if kind := _exported(Path(path).expanduser()):
        return _load_graph(Path(path).expanduser(), kind, experiment, verb, provider)
    if provider is not None:
        raise InputError(f"--provider {provider} is for ONNX graphs", hint="leave it out")
    artifact = load_model(path, precision=precision, verb=verb, spec=experiment)
    spec = artifact.spec if experiment is None else combine(experiment, artifact.spec, str(path))
    _check(artifact.model, spec, str(path))
    return KerasPredictor(artifact.model, spec)


def open_graph(proto, folder: str | os.PathLike, spec: Experiment) -> GraphPredictor:
    """A predictor of a graph in memory, through a file of `folder`: what a file on a disk would give."""
    from ssd.deploy.onnx_session import open_onnx

    path = Path(folder) / f"{secrets.token_hex(4)}.onnx"
    path.write_bytes(proto.SerializeToString())
    return GraphPredictor(*open_onnx(path), spec)


def _exported(path: Path) -> str | None:
    """ "onnx" or "engine", by the first bytes or, since ONNX has no mark, the suffix; None for anything else."""
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError:
        return None  # told with the other kinds
    if head in ENGINE_MARKS or path.suffix.lower() in ENGINE_SUFFIXES:
        return "engine"
    return "onnx" if path.suffix.lower() == ".onnx" else None


def _load_graph(path: Path, kind: str, experiment: Experiment | None, verb: str, provider: str | None):
    from ssd.spec import experiment_from_text

    if kind == "onnx":
        from ssd.deploy.onnx_session import open_onnx

        runner, metadata = open_onnx(path, provider)
    else:
        from ssd.deploy.engine_runner import open_engine

        if provider is not None:
            raise InputError(f"--provider {provider} is for ONNX graphs", hint="leave it out")
        runner, metadata = open_engine(path)
    stored = experiment_from_text(metadata.spec, f"{path}:metadata", verb)
    spec = stored if experiment is None else combine(experiment, stored, str(path))
    if metadata.nms != "none" and spec.nms != stored.nms:
        console.warn(f"the model's NMS is in its graph ({metadata.nms}); nms_config of the spec is not used")
    return GraphPredictor(runner, metadata, spec)


def combine(given: Experiment, stored: Experiment, path: str) -> Experiment:
    """`given`, with the network and the input that the model was trained with.

    Raises:
        ModelError: another input, or other classes.
    """
    size, own_size = _input_shape(given), _input_shape(stored)
    if size != own_size:
        raise ModelError(
            f"the model takes images of {_shape_text(own_size)}, the spec makes {_shape_text(size)}",
            where=path,
            hint="leave the spec away to use the one inside the model",
        )
    if given.classes != stored.classes:
        raise ModelError(
            f"the model knows {len(stored.classes)} classes ({', '.join(stored.classes)}), "
            f"the spec {len(given.classes)} ({', '.join(given.classes)})",
            where=path,
            hint="give target_class_mapping the model's names, or leave the spec away to use the one inside the model",
        )
    ignored = [
        f"{message}.{field}"
        for message, mine, theirs, fields in (
            ("network", stored.network, given.network, _NETWORK_FIELDS),
            ("augmentation_config", stored.augmentation, given.augmentation, ("mean",)),
        )
        for field in fields
        if getattr(mine, field) != getattr(theirs, field)
    ]
    if ignored:
        console.warn(f"the spec differs from the model's own in {', '.join(ignored)}: the model's values are used")
    return dataclasses.replace(given, network=stored.network, augmentation=stored.augmentation)


# What must be as it was in training for the outputs to mean what they meant.
_NETWORK_FIELDS = (
    "dssd",
    "arch",
    "nlayers",
    "aspect_ratios",
    "scales",
    "two_boxes_for_ar1",
    "steps",
    "offsets",
    "clip_boxes",
    "variances",
    "pred_num_channels",
)


def _check(model: keras.Model, spec: Experiment, path: str) -> None:
    """The network inside a file against the spec beside it: they disagree only in a file made by hand."""
    if num_classes(model) != len(spec.classes):
        raise ModelError(
            f"the network tells {num_classes(model)} classes apart, its spec names {len(spec.classes)}", where=path
        )
    if tuple(model.input_shape[1:]) != _input_shape(spec):
        raise ModelError(
            f"the network takes images of {_shape_text(model.input_shape[1:])}, "
            f"its spec says {_shape_text(_input_shape(spec))}",
            where=path,
        )
    anchors = len(anchors_for(model, spec))
    if model.output["class_logits"].shape[1] != anchors:
        raise ModelError(
            f"the network has {model.output['class_logits'].shape[1]} anchors, its spec makes {anchors}", where=path
        )


def _input_shape(spec: Experiment) -> tuple[int, int, int]:
    return (spec.augmentation.height, spec.augmentation.width, spec.augmentation.channels)


def _shape_text(shape: tuple[int, int, int]) -> str:
    height, width, channels = shape
    return f"{width}x{height} with {channels} channel{'s' if channels > 1 else ''}"
