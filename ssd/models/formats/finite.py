"""Arrays as files have them, into float32 that a network can use."""

import numpy as np

from ssd.errors import ModelError


def as_float32(array, name: str) -> np.ndarray:
    """`array` as float32, from any kind of floating point, bfloat16 too.

    Raises:
        ModelError: not floating point, or a value that is not finite; names the tensor.
    """
    array = np.asarray(array)
    if array.dtype.kind != "f" and array.dtype.name not in ("bfloat16",):
        raise ModelError(f"tensor {name} is of type {array.dtype}; weights are floating point numbers")
    with np.errstate(over="ignore"):
        array = array.astype("float32", copy=False)
    if not np.isfinite(array).all():
        raise ModelError(f"tensor {name} has values that are not finite: the training it is from went wrong")
    return array
