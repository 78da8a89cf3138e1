"""What one training step computes, on any Keras backend: forward, loss, update, and the averages kept beside them."""

import keras
import numpy as np
from keras import ops

from ssd.models.replicas import replicas, total
from ssd.models.running_statistics import RANGE_SUFFIX, count_steps, settle
from ssd.spec.config import Augmentation, Network
from ssd.training.distribution import dealt_out
from ssd.training.hardware import fused
from ssd.training.loss import ssd_loss
from ssd.training.pixels import network_input
from ssd.training.shapes import boxes_and_classes, images_in, only_images

# An average over the last tenth of the steps so far suits runs of any length; the cap is reached at step 45,000.
EMA_LONGEST = 0.9998
EMA_RAMP = 10.0

# Order of `totals`.
PARTS = ("loss", "classification", "localisation", "regularisation")


class TrainingModel(keras.Model):
    """The detector with its loss, for `train_on_batch(keyed_pixels(images, ...), keyed(truth))`.

    Everything a step counts is a non-trainable weight, so that a step returns nothing and the device need not be
    waited for; `totals` and `first_bad_step` are read when the caller wants them.

    Args:
        detector: as made by `build_detector`.
        anchors: `(A, 4)` corners, relative.
        network: for the loss.
        average: a second detector of the same shape that follows the weights and the batch statistics of the first
            as an exponential moving average. Ranges, which are averages already, it has from the first as they are.
            None for no average.
        augmentation: what makes the network's input of the loader's batches; None: batches are that input already.
    """

    def __init__(
        self,
        detector: keras.Model,
        anchors: np.ndarray,
        network: Network,
        average: keras.Model | None = None,
        augmentation: Augmentation | None = None,
    ):
        super().__init__(name="training", dtype="float32")  # images reach the detector unrounded
        self.detector = detector
        self.average = average
        self.network = network
        self.network_input = augmentation and fused(lambda pixels: network_input(pixels, augmentation))
        self.anchors = anchors
        if average is not None:
            average.set_weights(detector.get_weights())
            average.trainable = False
        self.counter = self._counter("counter", (), "int32", "zeros")
        self.sums = self._counter("sums", (1 + len(PARTS),), "float32", "zeros")
        self.bad_step = self._counter("bad_step", (), "int32", keras.initializers.Constant(-1))
        count_steps(detector, self.counter)

    def _counter(self, name: str, shape: tuple, dtype: str, initializer):
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            aggregation="only_first_replica",  # all have the same
        )

    @property
    def evaluated(self) -> keras.Model:
        """The network that is validated and saved: the average where one is kept."""
        return self.detector if self.average is None else self.average

    def train_on_batch(self, x, y):
        """One step. Nothing is returned, and the device is not waited for."""
        if keras.backend.backend() != "tensorflow":
            if keras.distribution.distribution() is None:
                # Keras' own looks at a batch before it takes it: both times it is on the device then.
                x, y = keras.tree.map_structure(ops.convert_to_tensor, (x, y))
            super().train_on_batch(x, y)
            return
        # Keras' own does not deal batches out with this backend.
        self.make_train_function()
        self.train_function([(*dealt_out((x, y)), None)])

    def call(self, pixels, training=False):
        if self.network_input:
            pixels = self.network_input(only_images(pixels))
        return self.detector(pixels, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        boxes, classes = boxes_and_classes(y)
        parts = ssd_loss(y_pred["class_logits"], y_pred["offsets"], boxes, classes, self.anchors, self.network)
        penalty = regularisation(self.detector)
        whole = total(ops.stack([parts[name] for name in ("loss", "classification", "localisation")]))
        self._count(images_in(y), whole[0] + penalty, whole[1], whole[2], penalty)
        if self.average is not None:
            self._follow()
        # The gradients of the replicas are added up.
        return parts["loss"] + penalty / replicas()

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {}  # a value returned here would make every step wait for the device

    def _count(self, images, *losses) -> None:
        loss = losses[0]
        counter, bad = ops.convert_to_tensor(self.counter), ops.convert_to_tensor(self.bad_step)
        first = ops.logical_and(bad < 0, ops.logical_not(ops.isfinite(loss)))
        self.bad_step.assign(ops.where(first, counter, bad))
        values = [ops.ones_like(loss), *losses]
        self.sums.assign(self.sums + float(images) * ops.stop_gradient(ops.stack(values)))
        self.counter.assign(counter + 1)

    def _follow(self) -> None:
        # One step behind the update, since the loss comes before it.
        for mean, weight in zip(self.average.weights, self.detector.weights, strict=True):
            value = ops.stop_gradient(ops.convert_to_tensor(weight))
            mean.assign(value if _is_range(weight) else mean + (1.0 - self._decay()) * (value - mean))

    def _decay(self):
        step = ops.cast(self.counter, "float32")
        return ops.minimum(EMA_LONGEST, step / (EMA_RAMP + step))

    def settle(self) -> None:
        """Ranges and batch statistics stay as they are from the next step on; the step is compiled anew."""
        settle(self.detector)
        self.train_function = None

    def totals(self) -> dict[str, float]:
        """Means over the images since `start_epoch`, and their number under "images"."""
        images, *sums = ops.convert_to_numpy(self.sums).tolist()
        return {"images": images, **{part: value / max(images, 1.0) for part, value in zip(PARTS, sums, strict=True)}}

    def first_bad_step(self) -> int | None:
        """The value of `counter` at the first loss that was not finite."""
        step = int(ops.convert_to_numpy(self.bad_step))
        return None if step < 0 else step

    def start_epoch(self) -> None:
        self.sums.assign(np.zeros(self.sums.shape, "float32"))


def _is_range(weight: keras.Variable) -> bool:
    return weight.path.rpartition("/")[0].endswith(RANGE_SUFFIX)


def regularisation(model: keras.Model):
    """The penalty on the kernels that are trained, float32 scalar."""
    penalties = [ops.cast(w.regularizer(w), "float32") for w in model.trainable_weights if w.regularizer is not None]
    return sum(penalties) if penalties else ops.zeros((), "float32")
