"""Batch normalisation whose statistics begin with the first batch, as one fused operation on the TensorFlow backend.

Averages that begin at 0 and 1 forget that by `momentum` a step: a MobileNet v2, with 0.999 and depthwise outputs of
variance 1e-4, saw nothing in evaluation even after 5000 steps. The rest is the stock layer's arithmetic, and files name
the stock layer (`ssd.models.portable` sees to it).

Keras 3 composes it from a dozen element-wise operations on TensorFlow, in float32: on a CPU that costs more than the
convolutions. Together with `ssd.models.depthwise` the one place of the models that knows a backend.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="ssd")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis of `(B,H,W,C)`."""

    def call(self, inputs, training=None, mask=None):
        batch_statistics = bool(training) and self.trainable
        if keras.backend.backend() == "tensorflow" and _fusable(inputs):
            outputs, mean, variance = self._fused(inputs, batch_statistics)
        else:
            before = [ops.convert_to_tensor(moving) for moving in (self.moving_mean, self.moving_variance)]
            outputs = super().call(inputs, training=training, mask=mask)
            if not batch_statistics:
                return outputs
            self.moving_mean.assign(before[0])
            self.moving_variance.assign(before[1])
            mean, variance = ops.moments(ops.cast(inputs, "float32"), axes=tuple(range(len(inputs.shape) - 1)))
        if batch_statistics:
            fresh = ops.logical_and(ops.all(self.moving_mean == 0), ops.all(self.moving_variance == 1))
            # Both decide by what was there before either moves.
            for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(ops.where(fresh, value, moving * self.momentum + value * (1.0 - self.momentum)))
        return outputs

    def _fused(self, inputs, batch_statistics: bool):
        """Outputs, and mean and variance `(C,)` of the batch."""
        import tensorflow as tf

        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            tf.convert_to_tensor(self.gamma),
            tf.convert_to_tensor(self.beta),
            mean=None if batch_statistics else tf.convert_to_tensor(self.moving_mean),
            variance=None if batch_statistics else tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            is_training=batch_statistics,
        )
        # The operation returns the unbiased variance; the stock layer and the original toolkit keep the biased one.
        shape = tf.shape(inputs)
        count = tf.cast(shape[0] * shape[1] * shape[2], "float32")
        return outputs, mean, variance * (count - 1.0) / count


def _fusable(inputs) -> bool:
    return len(inputs.shape) == 4 and keras.backend.standardize_dtype(inputs.dtype) in (
        "float32",
        "bfloat16",
        "float16",
    )
