"""Learning rates over a run: soft start, plateau, annealing; or soft start and cosine."""

import math

import keras
from keras import ops

from ssd.spec.config import Schedule


class SoftStart(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate at an optimizer step.

    With p = step / total_steps:

    * "annealing": exponential growth from min to max until `soft_start`, max until `annealing`, exponential fall to
      min at p = 1.
    * "cosine": linear growth from min to max until `soft_start`, then one half cosine down to min at p = 1. The
      original tool left the cosine unstretched, so that with a soft start the rate never came down to min.

    Args:
        schedule: kind, rates and bounds.
        total_steps: steps of the whole run, whatever part of it this process trains.
        devices: both rates are multiplied by it, as the batch is.
    """

    def __init__(self, schedule: Schedule, total_steps: int, devices: int = 1):
        self.schedule = schedule
        self.total_steps = max(total_steps, 1)
        self.low = schedule.min_learning_rate * devices
        self.high = schedule.max_learning_rate * devices

    def __call__(self, step):
        progress = ops.minimum(ops.cast(step, "float32") / self.total_steps, 1.0)
        start = self.schedule.soft_start
        rising = progress / start if start > 0 else ops.ones_like(progress)
        if self.schedule.annealing is None:
            fall = (progress - start) / (1.0 - start)
            cosine = (1.0 + ops.cos(math.pi * fall)) / 2.0
            return self.low + (self.high - self.low) * ops.where(progress < start, rising, cosine)
        turn = self.schedule.annealing
        falling = (1.0 - progress) / (1.0 - turn) if turn < 1 else ops.ones_like(progress)
        height = ops.where(progress < start, rising, ops.where(progress > turn, falling, 1.0))
        return ops.exp(math.log(self.low) + height * (math.log(self.high) - math.log(self.low)))

    def at(self, step: int) -> float:
        """The same as a plain number."""
        return float(ops.convert_to_numpy(self(step)))

    def get_config(self) -> dict:
        # Keras asks only when it serialises an optimizer, which no file of ours holds.
        raise NotImplementedError("the schedule follows from the spec; model files do not hold it")
