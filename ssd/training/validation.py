"""Validation during training: the training loss and the mAP of one pass over the validation images."""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from ssd.boxes.nms import Detections, detect
from ssd.data.share import ALONE
from ssd.evaluation.average_precision import voc_report
from ssd.evaluation.run import evaluate_loader
from ssd.models.replicas import total
from ssd.spec.config import Experiment
from ssd.training.distribution import dealt_out, everywhere
from ssd.training.loss import ssd_loss
from ssd.training.shapes import boxes_and_classes, keyed, keyed_pixels, only_images


@dataclass(frozen=True)
class Validation:
    """`loss` is comparable to the training loss: a mean over images, regularisation included."""

    loss: float
    mean: float | None  # None where no validation image has an object
    per_class: dict[str, float | None]


class Scorer(keras.Model):
    """Detections and loss of one batch in one pass; `predict_on_batch({"pixels": keyed_pixels(...), **keyed(truth)})`.

    All processes get the whole batch's: what follows from a validation, they do alike.
    """

    def __init__(self, detector: keras.Model, anchors: np.ndarray, spec: Experiment):
        super().__init__(name="scorer", dtype="float32")
        self.detector = detector
        self.anchors = anchors
        self.spec = spec

    def call(self, batch, training=False):
        outputs = self.detector(only_images(batch["pixels"])["images"], training=False)
        logits, offsets = outputs["class_logits"], outputs["offsets"]
        network, nms = self.spec.network, self.spec.nms
        detections = detect(
            logits,
            offsets,
            self.anchors,
            network.variances,
            confidence_threshold=nms.confidence_threshold,
            iou_threshold=nms.iou_threshold,
            top_k=nms.top_k,
        )
        boxes, classes = boxes_and_classes(batch)
        loss = total(ssd_loss(logits, offsets, boxes, classes, self.anchors, network)["loss"])
        return everywhere({"loss": ops.reshape(loss, (1,)), **detections._asdict()})


class Validator:
    """Validates the same network again and again; what is compiled is compiled once."""

    def __init__(self, detector: keras.Model, anchors: np.ndarray, spec: Experiment, loader):
        self.scorer = Scorer(detector, anchors, spec)
        self.scorer.compile(jit_compile=keras.backend.backend() != "tensorflow")
        self.spec = spec
        self.loader = _Tapped(loader)

    def run(self, penalty: float, stop=lambda: None) -> Validation:
        """One pass.

        Args:
            penalty: the regularisation loss of the network.
            stop: called before every batch; may raise to end the pass.
        """
        losses, images_seen = 0.0, 0

        def predict(images) -> Detections:
            nonlocal losses, images_seen
            stop()
            truth = self._counted(self.loader.truth)
            count, share = len(truth["index"]), self.loader.share
            if share != ALONE:
                truth = {**share.of(truth, count), "index": truth["index"]}
            batch = {"pixels": keyed_pixels({"images": images}, count, share), **keyed(truth)}
            scored = self.scorer.predict_on_batch(dealt_out(batch))
            losses += float(scored["loss"][0]) * count
            images_seen += count
            return Detections(**{name: scored[name] for name in Detections._fields})

        results = evaluate_loader(predict, self.loader, label="validation")
        evaluation = self.spec.evaluation
        report = voc_report(
            results, self.spec.classes, evaluation.matching_iou_threshold, evaluation.average_precision_mode
        )
        per_class = {row.name: row.ap for row in report.classes}
        return Validation(losses / max(images_seen, 1) + penalty, report.mean, per_class)

    def _counted(self, truth: dict) -> dict:
        """The objects of the loss: those that training learns from."""
        if self.spec.dataset.include_difficult:
            return truth
        return {**truth, "classes": np.where(truth["difficult"], 0, truth["classes"])}


class _Tapped:
    """A loader that keeps the truth of its current batch in sight: `evaluate_loader` hands on the images only."""

    def __init__(self, loader):
        self.loader = loader
        self.samples = loader.samples
        self.steps = loader.steps
        self.share = loader.share
        self.names = loader.names
        self.truth: dict | None = None

    def epoch(self, epoch: int):
        for images, truth in self.loader.epoch(epoch):
            self.truth = truth
            yield images, truth
