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
        return super().call(inputs) if self.use_bias else self.activation(depthwise_conv(self, inputs, self.kernel))


def depthwise_conv(layer: keras.layers.DepthwiseConv2D, inputs, kernel):
    """`inputs` under `kernel` with the strides and padding of `layer`, in its compute dtype; no bias, no activation."""
    if set(layer.strides) != {1} and keras.backend.backend() == "tensorflow" and _on_cpu():
        inputs, kernel = ops.cast(inputs, "float32"), ops.cast(kernel, "float32")
    outputs = ops.depthwise_conv(
        inputs,
        kernel,
        strides=layer.strides,
        padding=layer.padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )
    return ops.cast(outputs, layer.compute_dtype)


def _on_cpu() -> bool:
    import tensorflow as tf

    return not tf.config.get_visible_devices("GPU")
