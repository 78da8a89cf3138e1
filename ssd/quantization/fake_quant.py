"""Fake quantization: numbers rounded to the codes that an INT8 engine would hold, as floats that can be trained.

Symmetric signed 8 bit, codes -127 to 127, zero is code 0: what TensorRT's explicit quantization takes. Activations have
one range a tensor, weights one an output channel. With one range a channel it makes no difference whether the batch
normalisation behind a convolution is multiplied into its kernel before rounding or after: the range is multiplied too.
"""

import keras
from keras import ops

from ssd.models.depthwise import depthwise_conv
from ssd.models.replicas import gathered
from ssd.models.running_statistics import RunningStatistics

CODES = 127.0
# A range of zero (a channel that is all zero) must not divide by zero.
SMALLEST = 1e-12


def fake_quant(x, amax):
    """`x` clipped to [-amax, amax] and rounded to multiples of amax / 127, half to even.

    The gradient is that of the clipping: rounding is passed straight through (Bengio et al. 2013, section 3.1).

    Args:
        x: float32.
        amax: float32, broadcasts against `x`; not negative. No gradient goes into it.
    """
    amax = ops.stop_gradient(amax)
    step = ops.maximum(amax, SMALLEST) / CODES
    # Clipping alone has half a gradient at its ends on JAX, and the largest weight of every channel is at one.
    clipped = ops.where(ops.abs(x) <= amax, x, ops.stop_gradient(ops.clip(x, -amax, amax)))
    return clipped + ops.stop_gradient(ops.round(clipped / step) * step - clipped)


@keras.saving.register_keras_serializable(package="ssd")
class FakeQuant(RunningStatistics, keras.layers.Layer):
    """Rounds a tensor to INT8 codes; its range is the running average of the batches' largest absolute values.

    Weight: `amax`, float32 scalar; 0 until the first batch, whose range it takes, settled or not.

    Args:
        momentum: share of the old range that a step keeps.
    """

    def __init__(self, momentum: float = 0.99, **kwargs):
        super().__init__(autocast=False, **kwargs)  # codes are found in float32
        self.momentum = momentum

    def build(self, input_shape):
        self.amax = self.add_weight(name="amax", shape=(), initializer="zeros", trainable=False, autocast=False)

    def call(self, inputs, training=None):
        x = ops.cast(inputs, "float32")
        amax = ops.convert_to_tensor(self.amax)
        if training:
            largest = ops.max(gathered(ops.reshape(ops.stop_gradient(ops.max(ops.abs(x))), (1,))))
            amax = ops.where(amax > 0, self._averaged(amax, largest), largest)
            self.amax.assign(amax)
        return ops.cast(fake_quant(x, amax), self.compute_dtype)

    def _averaged(self, amax, largest):
        if self.settled:
            return amax
        kept = self.kept_share(self.momentum)
        return kept * amax + (1.0 - kept) * largest

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


class _QuantizedKernel:
    """What the three quantized convolutions share: a float32 kernel that is rounded wherever it is used."""

    def add_weight(self, *args, **kwargs):
        # Codes are found in float32, whatever precision multiplies.
        return super().add_weight(*args, **{**kwargs, "autocast": False})

    def rounded(self, axes: tuple[int, ...]):
        """The kernel in the compute dtype, rounded with one range for each place outside `axes`."""
        kernel = ops.convert_to_tensor(self.kernel)
        amax = ops.max(ops.abs(kernel), axis=axes, keepdims=True)
        return ops.cast(fake_quant(kernel, amax), self.compute_dtype)

    def finished(self, outputs):
        """With bias and activation."""
        if self.use_bias:
            outputs = ops.add(outputs, ops.cast(self.bias, outputs.dtype))
        return outputs if self.activation is None else self.activation(outputs)


@keras.saving.register_keras_serializable(package="ssd")
class QuantConv2D(_QuantizedKernel, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with an INT8 kernel."""

    def call(self, inputs):
        return self.finished(self.convolution_op(inputs, self.rounded((0, 1, 2))))


@keras.saving.register_keras_serializable(package="ssd")
class QuantDepthwiseConv2D(_QuantizedKernel, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with an INT8 kernel."""

    def call(self, inputs):
        return self.finished(depthwise_conv(self, inputs, self.rounded((0, 1))))


@keras.saving.register_keras_serializable(package="ssd")
class QuantConv2DTranspose(_QuantizedKernel, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with an INT8 kernel `(kh, kw, out, in)`."""

    def call(self, inputs):
        outputs = ops.conv_transpose(
            inputs,
            self.rounded((0, 1, 3)),
            list(self.strides),
            self.padding,
            self.output_padding,
            self.data_format,
            self.dilation_rate,
        )
        return self.finished(outputs)
