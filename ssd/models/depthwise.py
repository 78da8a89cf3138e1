"""Depthwise convolution that steps around a slow kernel of TensorFlow on CPUs.

In bfloat16 the gradient of a strided one takes twelve times as long there as in float32, and is most of what a
MobileNet's training step costs. Files name the stock layer, as for `ssd.models.batch_norm`.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="ssd")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D`; strided, without bias and on a CPU under TensorFlow, it multiplies in float32."""

    def call(self, inputs):
        if self.use_bias or set(self.strides) == {1} or keras.backend.backend() != "tensorflow" or not _on_cpu():
            return super().call(inputs)
        outputs = ops.depthwise_conv(
            ops.cast(inputs, "float32"),
            ops.cast(self.kernel, "float32"),
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        return self.activation(ops.cast(outputs, self.compute_dtype))


def _on_cpu() -> bool:
    import tensorflow as tf

    return not tf.config.get_visible_devices("GPU")
