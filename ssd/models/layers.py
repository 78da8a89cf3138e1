"""The pieces every network is built from: convolutions padded as the original toolkit pads them, and what follows them.

Layer names are the original's, so that its weights load by name; layers it left to automatic numbering get stable
names here. Everything made is a plain Keras layer on `(B,H,W,C)` tensors.
"""

from dataclasses import dataclass

import keras
from keras import layers as keras_layers

from ssd.models.batch_norm import BatchNormalization
from ssd.models.depthwise import DepthwiseConv2D
from ssd.spec.config import Regularizer


@dataclass(frozen=True)
class Layers:
    """Builders that share what a family gives all its layers.

    Args:
        regularizer: goes on the kernels of regular and transposed convolutions; not on biases, BN or depthwise kernels.
        momentum: of the BN statistics.
        initializer: of the kernels, as Keras takes it.
    """

    regularizer: Regularizer
    momentum: float = 0.99
    initializer: str | dict = "glorot_uniform"

    def conv(self, x, filters, kernel, *, name, stride=1, bias=False, padded=False, activation=None, initializer=None):
        """A convolution with `kernel // 2` zeros on each side, `kernel` odd.

        `(B,H,W,C)` becomes `(B, ceil(H/stride), ceil(W/stride), filters)`. With a stride, "same" would put more zeros
        at the end than at the beginning on even sizes, which shifts the grid by half a pixel and does not fit the
        original's weights; hence the padding of its own. An `x` that is `padded` already gets none, and then `kernel`
        may be even, or (height, width).
        """
        padding = "same"
        if stride > 1 or padded:
            padding = "valid"
            if not padded and kernel > 1:
                x = keras_layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
        return keras_layers.Conv2D(
            filters,
            kernel,
            strides=stride,
            padding=padding,
            use_bias=bias,
            activation=activation,
            kernel_initializer=initializer or self.initializer,
            kernel_regularizer=self.kernel_regularizer(),
            name=name,
        )(x)

    def double(self, x, filters: int, *, name: str):
        """A transposed convolution, 2x2 with stride 2, without bias: `(B,H,W,C)` to `(B,2H,2W,filters)`."""
        return keras_layers.Conv2DTranspose(
            filters,
            2,
            strides=2,
            padding="valid",
            use_bias=False,
            kernel_initializer=self.initializer,
            kernel_regularizer=self.kernel_regularizer(),
            name=name,
        )(x)

    def depthwise(self, x, kernel: int, *, name: str, pad: str | None, stride: int = 1):
        """A convolution of each channel by itself, without bias: `(B,H,W,C)` to `(B, ceil(H/stride), ..., C)`.

        Args:
            pad: name of the layer that puts `kernel // 2` zeros on each side; None where `x` has them already, or
                where `stride` is 1, which needs no layer for it.
        """
        padding = "same" if pad is None and stride == 1 else "valid"
        if pad is not None:
            x = keras_layers.ZeroPadding2D(kernel // 2, name=pad)(x)
        return DepthwiseConv2D(
            kernel,
            strides=stride,
            padding=padding,
            use_bias=False,
            depthwise_initializer=self.initializer,
            name=name,
        )(x)

    def max_pool(self, x, size: int, stride: int, *, name: str):
        """The largest of `size` x `size` with `(size - 1) // 2` zeros on each side; `x` is not negative.

        `(B,H,W,C)` becomes `(B, (H + 2p - size) // stride + 1, ..., C)`: 2x2 rounds an odd size down, 3x3 up.
        """
        if stride == 1:  # behind a ReLU a zero and nothing at all are the same to a maximum
            return keras_layers.MaxPooling2D(size, strides=1, padding="same", name=name)(x)
        if padding := (size - 1) // 2:
            x = keras_layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
        return keras_layers.MaxPooling2D(size, strides=stride, padding="valid", name=name)(x)

    def batch_norm(self, x, name: str):
        return BatchNormalization(momentum=self.momentum, epsilon=1e-3, name=name)(x)

    def relu(self, x, name: str):
        return keras_layers.ReLU(name=name)(x)

    def swish(self, x, name: str):
        """`x * sigmoid(x)`."""
        return keras_layers.Activation("silu", name=name)(x)

    def conv_bn(self, x, filters: int, kernel: int, *, name: str, bn: str, stride: int = 1):
        """Convolution without bias, then BN: the name of each, since every family has its own scheme."""
        return self.batch_norm(self.conv(x, filters, kernel, stride=stride, name=name), bn)

    def conv_bn_relu(self, x, filters: int, kernel: int, *, name: str, bn: str, relu: str, stride: int = 1):
        return self.relu(self.conv_bn(x, filters, kernel, stride=stride, name=name, bn=bn), relu)

    def add(self, tensors: list, name: str):
        return keras_layers.Add(name=name)(tensors)

    def concat(self, tensors: list, name: str):
        """Channels of all `tensors`, in their order."""
        return keras_layers.Concatenate(axis=-1, name=name)(tensors)

    def kernel_regularizer(self) -> keras.regularizers.Regularizer | None:
        """A new Keras regulariser: `weight * sum(|k|)` or `weight * sum(k^2)`."""
        kinds = {"l1": keras.regularizers.L1, "l2": keras.regularizers.L2}
        if self.regularizer.kind not in kinds or not self.regularizer.weight:
            return None
        return kinds[self.regularizer.kind](self.regularizer.weight)
