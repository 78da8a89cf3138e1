"""Statistics that layers average over the steps of a training: those of batches, and ranges of fake quantization."""

import keras
from keras import ops

# Step t keeps at most (1 + t) / (10 + t) of the old statistics, as TensorFlow's ExponentialMovingAverage does.
RAMP = 10.0
# Layers that hold nothing but the range of a tensor have the tensor's name with this behind it, as in TAO's files.
RANGE_SUFFIX = "_qdq"


class RunningStatistics:
    """What such a layer is told from outside; layers inherit it beside Keras' own class.

    Args:
        settled: the statistics stay as they are, and are what the layer computes with, in training too.
    """

    settled = False
    _steps = None  # how many the training has done, set by `count_steps`

    def kept_share(self, longest: float):
        """The share of the old statistics that the present step keeps: `longest` once there were enough steps."""
        if self._steps is None:
            return longest
        step = ops.cast(self._steps(), "float32")
        return ops.minimum(longest, (1.0 + step) / (RAMP + step))


def count_steps(model: keras.Model, counter: keras.Variable) -> None:
    """Lets the statistics of all of `model`'s layers average over the last tenth of the steps so far, if that is less
    than what their momentum says.

    A momentum of 0.999 remembers the random weights of the beginning for thousands of steps: the loss falls, and
    evaluation, which runs on these averages, sees nothing of it.

    Args:
        counter: scalar, the steps done before the present one.
    """
    for layer in _layers(model):
        # A function: Keras would take the variable itself for a weight of the layer.
        layer._steps = lambda: ops.convert_to_tensor(counter)


def settle(model: keras.Model) -> None:
    """Keeps all statistics as they are from here on. A step that was compiled before has to be compiled again."""
    for layer in _layers(model):
        layer.settled = True


def _layers(model: keras.Model) -> list[RunningStatistics]:
    return [layer for layer in model.layers if isinstance(layer, RunningStatistics)]
