"""Batch normalisation that runs as one fused operation on the TensorFlow backend.

Keras 3 composes it from a dozen element-wise operations there, in float32: on a CPU that costs more than the
convolutions. The arithmetic is the same, and files name the stock layer (`ssd.models.checkpoint` sees to it).
Together with `ssd.models.depthwise` the one place of the models that knows a backend.
"""

import keras


@keras.saving.register_keras_serializable(package="ssd")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis of `(B,H,W,C)`; other backends run the stock layer."""

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
        moving.assign(moving * self.momentum + value * (1.0 - self.momentum))


def _fusable(inputs) -> bool:
    return len(inputs.shape) == 4 and keras.backend.standardize_dtype(inputs.dtype) in (
        "float32",
        "bfloat16",
        "float16",
    )
