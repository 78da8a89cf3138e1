"""Batch normalisation of other toolkits in terms of ours: `gamma * (x - mean) / sqrt(variance + 1e-3) + beta`."""

import numpy as np

EPSILON = 1e-3  # of every BN layer here


def with_epsilon(gamma, beta, mean, variance, epsilon: float) -> tuple[np.ndarray, ...]:
    """The four arrays `(C,)` of a BN with another epsilon, gamma rescaled to give the same function in inference.

    A channel without variance and with an epsilon of 0 has no such function: its gamma becomes 0.
    """
    gamma, beta, mean, variance = (np.asarray(array, "float64") for array in (gamma, beta, mean, variance))
    theirs = variance + epsilon
    scale = np.sqrt(np.divide(variance + EPSILON, theirs, out=np.zeros_like(theirs), where=theirs > 0))
    return _float32(gamma * scale, beta, mean, variance)


def neutral(channels: int) -> tuple[np.ndarray, ...]:
    """gamma, beta, mean, variance `(channels,)` that change nothing in inference, not by a bit.

    With gamma 1 and a variance of 1 - 1e-3, variance + epsilon rounds to exactly 1.
    """
    one, zero = np.ones(channels), np.zeros(channels)
    return _float32(one, zero, zero, one - EPSILON)


def with_bias(arrays, bias) -> tuple[np.ndarray, ...]:
    """gamma, beta, mean, variance after a convolution that lost its `bias` `(C,)`: it goes into the moving mean."""
    gamma, beta, mean, variance = arrays
    return gamma, beta, *_float32(np.asarray(mean, "float64") - np.asarray(bias, "float64")), variance


def _float32(*arrays) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(array, "float32") for array in arrays)
