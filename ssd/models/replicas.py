"""What the replicas of a step tell each other, where each sees a part of the batch only.

TensorFlow's MirroredStrategy runs a step once a device. All that a whole batch decides (batch statistics, ranges, hard
negatives, the loss's normaliser) has to be put together here, so that any number of devices computes what one would.
On JAX a step is one program over the whole batch, cut up behind its back: there, and on a single device, these do
nothing.
"""

import keras
from keras import ops


def replicas() -> int:
    """How many run the present step."""
    context = _context()
    return context.num_replicas_in_sync if context else 1


def total(value):
    """The sum of a float tensor over the replicas; gradients are summed likewise."""
    context = _context()
    return context.all_reduce("SUM", value) if context else value


def gathered(rows):
    """The rows of all replicas, in order. Carries no gradient."""
    context = _context()
    if not context:
        return rows
    everything = context.all_gather(ops.stop_gradient(rows), axis=0)
    everything.set_shape((None, *rows.shape[1:]))  # which it forgets
    return everything


def own_rows(everything, like):
    """What of `gathered` rows came from this replica, whose own were `like`; the first replicas may have one more."""
    context = _context()
    if not context:
        return everything
    rows, replica = ops.shape(everything)[0], context.replica_id_in_sync_group
    start = replica * (rows // context.num_replicas_in_sync) + ops.minimum(replica, rows % context.num_replicas_in_sync)
    return everything[start : start + ops.shape(like)[0]]


def _context():
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context() if tf.distribute.has_strategy() else None
    return context if context and context.num_replicas_in_sync > 1 else None
