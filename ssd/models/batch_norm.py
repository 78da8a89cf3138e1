"""Batch normalisation that runs as one fused operation on the TensorFlow backend, and whose averages know their step.

Keras 3 composes it from a dozen element-wise operations there, in float32: on a CPU that costs more than the
convolutions. The arithmetic is the same, and files name the stock layer (`ssd.models.portable` sees to it).
Together with `ssd.models.depthwise` the one place of the models that knows a backend.
"""

import keras
from keras import ops

# Step t keeps at most (1 + t) / (10 + t) of the old statistics, as TensorFlow's ExponentialMovingAverage does.
RAMP = 10.0


@keras.saving.register_keras_serializable(package="ssd")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis of `(B,H,W,C)`; other backends run the stock layer."""

    _steps = None  # how many the training has done, set by `count_steps`

    @property
    def momentum(self):
        """The share of the old statistics that the present step keeps; a float where no steps are counted."""
        if self._steps is None:
            return self._longest
        step = ops.cast(self._steps(), "float32")
        return ops.minimum(self._longest, (1.0 + step) / (RAMP + step))

    @momentum.setter
    def momentum(self, value: float):
        self._longest = value

    def get_config(self):
        return {**super().get_config(), "momentum": self._longest}

    def call(self, inputs, training=None, mask=None):
        if keras.backend.backend() != "tensorflow" or not _fusable(inputs):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        batch_statistics = bool(training) and self.trainable
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            tf.convert_to_tensor(self.gamma),
            tf.convert_to_tensor(self.beta),
            mean=None if batch_statistics else tf.convert_to_tensor(self.moving_mean),
            variance=None if batch_statistics else tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            is_training=batch_statistics,
        )
        if batch_statistics:
            # The operation returns the unbiased variance; the stock layer and the original toolkit keep the biased one.
            shape = tf.shape(inputs)
            count = tf.cast(shape[0] * shape[1] * shape[2], "float32")
            variance = variance * (count - 1.0) / count
            self._average(self.moving_mean, mean)
            self._average(self.moving_variance, variance)
        return outputs

    def _average(self, moving, value):
        momentum = self.momentum
        moving.assign(moving * momentum + value * (1.0 - momentum))


def count_steps(model: keras.Model, counter: keras.Variable) -> None:
    """Lets the statistics of all of `model`'s layers average over the last tenth of the steps so far, if that is less
    than what their momentum says.

    A momentum of 0.999 remembers the random weights of the beginning for thousands of steps: the loss falls, and
    evaluation, which runs on these averages, sees nothing of it.

    Args:
        counter: scalar, the steps done before the present one.
    """
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            # A function: Keras would take the variable itself for a weight of the layer.
            layer._steps = lambda: ops.convert_to_tensor(counter)


def _fusable(inputs) -> bool:
    return len(inputs.shape) == 4 and keras.backend.standardize_dtype(inputs.dtype) in (
        "float32",
        "bfloat16",
        "float16",
    )
