"""Batch normalisation that runs as one fused operation on the TensorFlow backend, and whose averages know their step.

Keras 3 composes it from a dozen element-wise operations there, in float32: on a CPU that costs more than the
convolutions. The arithmetic is the same, and files name the stock layer (`ssd.models.portable` sees to it).
With `ssd.models.depthwise` and `ssd.models.replicas` the one place of the models that knows a backend.
"""

import keras

from ssd.models.replicas import replicas, total
from ssd.models.running_statistics import RunningStatistics


@keras.saving.register_keras_serializable(package="ssd")
class BatchNormalization(RunningStatistics, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis of `(B,H,W,C)`; other backends run the stock layer."""

    @property
    def momentum(self):
        """The share of the old statistics that the present step keeps; a float where no steps are counted."""
        return self.kept_share(self._longest)

    @momentum.setter
    def momentum(self, value: float):
        self._longest = value

    def get_config(self):
        return {**super().get_config(), "momentum": self._longest}

    def call(self, inputs, training=None, mask=None):
        batch_statistics = bool(training) and self.trainable and not self.settled
        if keras.backend.backend() != "tensorflow" or not _fusable(inputs):
            return super().call(inputs, training=batch_statistics, mask=mask)
        if batch_statistics and replicas() > 1:
            return self._over_replicas(inputs)
        import tensorflow as tf

        if training and not batch_statistics and _lacks_gradient():
            return super().call(inputs, training=False, mask=mask)
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

    def _over_replicas(self, inputs):
        """With the statistics of the whole batch, whose rows several replicas have."""
        import tensorflow as tf

        x = tf.cast(inputs, "float32")
        shape = tf.shape(x)
        count = total(tf.cast(shape[0] * shape[1] * shape[2], "float32"))
        mean = total(tf.reduce_sum(x, axis=(0, 1, 2))) / count
        variance = total(tf.reduce_sum(tf.square(x - mean), axis=(0, 1, 2))) / count
        self._average(self.moving_mean, mean)
        self._average(self.moving_variance, variance)
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        return tf.cast(tf.nn.batch_normalization(x, mean, variance, beta, gamma, self.epsilon), inputs.dtype)

    def _average(self, moving, value):
        momentum = self.momentum
        moving.assign(moving * momentum + value * (1.0 - momentum))


def _fusable(inputs) -> bool:
    return len(inputs.shape) == 4 and keras.backend.standardize_dtype(inputs.dtype) in (
        "float32",
        "bfloat16",
        "float16",
    )


def _lacks_gradient() -> bool:
    """Whether the fused operation with given statistics has no gradient: on GPUs, where it must be deterministic."""
    import tensorflow as tf
    from tensorflow.python.framework.config import is_op_determinism_enabled

    return is_op_determinism_enabled() and bool(tf.config.get_visible_devices("GPU"))
