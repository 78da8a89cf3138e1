"""The optimizer that a spec asks for."""

import keras

from ssd.spec.config import Optimizer
from ssd.training.schedules import SoftStart

KINDS = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}


def make_optimizer(optimizer: Optimizer, schedule: SoftStart) -> keras.optimizers.Optimizer:
    """A Keras optimizer; `optimizer.options` are its keyword arguments."""
    return KINDS[optimizer.kind](learning_rate=schedule, **dict(optimizer.options))
