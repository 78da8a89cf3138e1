"""Rows picked from each image of a batch."""

from keras import ops


def gather_rows(values, index):
    """`values[b, index[b, n]]` for every image b.

    One flat gather: `ops.take_along_axis` builds an index for every element on the TensorFlow backend.

    Args:
        values: `(B, M, ...)`.
        index: int32 `(B, N)`, each in [0, M).

    Returns:
        `(B, N, ...)`.
    """
    batch, rows = ops.shape(values)[0], ops.shape(values)[1]
    flat = ops.reshape(values, (batch * rows, *values.shape[2:]))
    first_row = ops.arange(batch, dtype="int32")[:, None] * rows
    return ops.take(flat, index + first_row, axis=0)
