"""What the benchmarks measure on: SSD300 of any backbone, made ground truth, made photographs, plausible scores."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
from PIL import Image

from ssd.spec import experiment_from_text
from ssd.spec.config import DataSource, Experiment, Regularizer

ROOT = Path(__file__).resolve().parents[2]
CANDIDATES = 0.01  # share of the anchors that NMS has to look at, as of a trained network


def specification(network: str, l2: float = 0.0) -> Experiment:
    """A ready spec with another backbone, so that anchors and heads are the same for all."""
    path = ROOT / "specs/ssd_resnet18_kitti.txt"
    spec = experiment_from_text(path.read_text(), str(path), "inference")
    with_depth = re.fullmatch(r"(resnet|vgg|darknet)(\d+)", network)
    arch, depth = (with_depth[1], int(with_depth[2])) if with_depth else (network, None)
    chosen = dataclasses.replace(spec.network, arch=arch, nlayers=depth)
    training = dataclasses.replace(spec.training, regularizer=Regularizer("l2", l2))
    return dataclasses.replace(spec, network=chosen, training=training)


def ground_truth(images: int, objects: int, classes: int) -> dict:
    """Random objects with sides of 5 to 50 % of the image, padded as a loader does."""
    rng = np.random.default_rng(0)
    centers, sizes = rng.random((images, objects, 2)), rng.uniform(0.05, 0.5, (images, objects, 2))
    rows = -(-objects // 16) * 16
    boxes, kinds = np.zeros((images, rows, 4), "float32"), np.zeros((images, rows), "int32")
    boxes[:, :objects] = np.clip(np.concatenate([centers - sizes / 2, centers + sizes / 2], -1), 0, 1)
    kinds[:, :objects] = rng.integers(1, classes + 1, (images, objects))
    return {"boxes": boxes, "classes": kinds}


def make_sparse(model, images, share: float = CANDIDATES) -> None:
    """Moves the scores of background until `share` of the anchors have a candidate.

    NMS on the outputs of random weights would be on all anchors, which is no work of a trained network's.
    """
    logits = np.asarray(model.predict_on_batch(images)["class_logits"])
    margins = np.sort((logits[..., 1:].max(-1) - logits[..., 0]).ravel())
    lift = margins[int(len(margins) * (1 - share))] - math.log(0.01 / 0.99)
    for layer in model.layers:
        if layer.name.startswith("ssd_conf_"):
            kernel, bias = layer.get_weights()
            bias[:: logits.shape[-1]] += lift
            layer.set_weights([kernel, bias])


def compiled(function):
    """As the backend compiles it in training and evaluation."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


def suppression(spec: Experiment, anchors):
    """Decoding and NMS alone, compiled: logits and offsets to detections."""
    from ssd.boxes.nms import detect

    nms = spec.nms
    settings = {name: getattr(nms, name) for name in ("confidence_threshold", "iou_threshold", "top_k")}
    return compiled(lambda logits, offsets: detect(logits, offsets, anchors, spec.network.variances, **settings))


def on_photographs(spec: Experiment, folder: Path, count: int) -> Experiment:
    """`spec` with made photographs for validation data."""
    source = photographs(folder, count)
    return dataclasses.replace(spec, dataset=dataclasses.replace(spec.dataset, validation=(source,)))


def photographs(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> DataSource:
    """A KITTI pair of folders with JPEGs in bytes near those of Pascal VOC (about 100 kB), three objects each."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (size[1] // 6, size[0] // 6, 3), np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"images/{number:05d}.jpg", quality=95)
        lines = []
        for _ in range(3):
            left, top = rng.uniform(0, size[0] * 0.6), rng.uniform(0, size[1] * 0.6)
            box = f"{left:.1f} {top:.1f} {left + size[0] * 0.3:.1f} {top + size[1] * 0.3:.1f}"
            lines.append(f"car 0 0 0 {box} 0 0 0 0 0 0 0\n")
        (folder / f"labels/{number:05d}.txt").write_text("".join(lines))
    return DataSource(str(folder / "images"), str(folder / "labels"))
