"""An estimate of the memory that a training step takes, from the shapes of a network.

Held against the peak of resident memory in steps on a CPU (TensorFlow 2.21, ResNet-18 at 320x256, SqueezeNet at
256x256, ResNet-18 with half of it frozen; batches of 2 to 24): what an image adds, 56, 66 and 13 MB, was estimated 6 %
too high, as it is, and 38 % too high. A process needs 1.0 to 1.2 GB more, whatever the network: 0.8 for libraries, the
rest for their compiled step.
"""

from dataclasses import dataclass

import keras
import numpy as np

# float32: variables, gradients and slots keep it in mixed precision too.
SINGLE = 4
# Batches that the loader has ready or in work beside the one that is trained; they are bytes.
WAITING_BATCHES = 6
BYTES_OF_RGB = 3
# Gradients of activations, as large as the largest, that live beside the activations: these are freed on the way back.
PASSING = 1
# Copies of logits and offsets that the loss and its gradient hold.
LOSS_COPIES = 6


@dataclass(frozen=True)
class Memory:
    """Bytes, by what they hold."""

    weights: int
    average: int  # the exponential moving average of the weights
    gradients: int
    optimizer: int
    activations: int  # kept from the forward pass for the backward pass
    transient: int  # the largest gradients of activations at one time, and the loss
    images: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def text(self) -> str:
        parts = [f"{name} {value / 1e6:,.0f}" for name, value in vars(self).items() if value]
        total = f"memory of a training step: about {self.total / 1e9:.2f} GB, an estimate; libraries come on top"
        return f"{total} (1.2 GB on a CPU)\nMB: {', '.join(parts)}"


def estimate_memory(
    model: keras.Model, batch_size: int, *, optimizer_entries: int, average: bool, compute_bytes: int = SINGLE
) -> Memory:
    """Memory of `train_on_batch` on the device, in bytes; what the libraries themselves take comes on top.

    Args:
        optimizer_entries: numbers that the optimizer keeps, of 4 bytes each.
        average: whether a moving average of the weights is kept.
        compute_bytes: of a number in an activation: 4, or 2 in bfloat16.
    """
    entries = sum(_entries(weight.shape) for weight in model.weights)
    kept = kept_activations(model)
    largest = max(kept.values(), default=0)
    outputs = sum(_entries(tensor.shape[1:]) for tensor in model.outputs)
    pixels, (height, width) = _entries(model.input_shape[1:]), model.input_shape[1:3]
    return Memory(
        weights=SINGLE * entries,
        average=SINGLE * entries if average else 0,
        gradients=SINGLE * sum(_entries(weight.shape) for weight in model.trainable_weights),
        optimizer=SINGLE * optimizer_entries,
        activations=compute_bytes * batch_size * sum(kept.values()),
        transient=batch_size * (compute_bytes * PASSING * largest + SINGLE * LOSS_COPIES * outputs),
        images=batch_size * (SINGLE * pixels + BYTES_OF_RGB * height * width * (1 + WAITING_BATCHES)),
    )


def kept_activations(model: keras.Model) -> dict[int, int]:
    """Numbers per image of each tensor that a gradient will need, by the tensor's id.

    Products need their inputs, so does batch normalisation; ReLU needs its output; sums, joins, paddings and reshapes
    need nothing. Below the first trained layer nothing is kept.
    """
    kept: dict[int, int] = {}
    on_the_way: set[int] = set()  # tensors that a gradient flows back through
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        inputs, outputs = keras.tree.flatten(layer.input), keras.tree.flatten(layer.output)
        if not layer.trainable_weights and not any(id(tensor) in on_the_way for tensor in inputs):
            continue
        on_the_way |= {id(tensor) for tensor in outputs}
        if isinstance(layer, keras.layers.ReLU):
            needed = outputs
        elif isinstance(layer, PASSING_THROUGH):
            needed = []
        elif isinstance(layer, keras.layers.MaxPooling2D):
            needed = [*inputs, *outputs]
        else:
            needed = inputs
        kept |= {id(tensor): _entries(tensor.shape[1:]) for tensor in needed}
    return kept


PASSING_THROUGH = (
    keras.layers.Add,
    keras.layers.AveragePooling2D,
    keras.layers.Concatenate,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Reshape,
    keras.layers.UpSampling2D,
    keras.layers.ZeroPadding2D,
)


def _entries(shape) -> int:
    return int(np.prod(shape, dtype=np.int64))
