"""Counter-based random numbers: a draw is a function of its key alone, never of what was drawn before.

This is what makes a window or a cell the same whatever the number of workers or devices, and after any restart. The mixer is
SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

import numba
import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11, _ONE = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11), np.uint64(1)


@numba.njit(cache=True, inline="always")
def mix(key, value):
    """Derive a new 64-bit key from a key and an integer."""
    z = np.uint64(key) + (np.uint64(value) + _ONE) * _GOLDEN
    z = (z ^ (z >> _S30)) * _M1
    z = (z ^ (z >> _S27)) * _M2
    return z ^ (z >> _S31)


@numba.njit(cache=True, inline="always")
def uniform(key, value):
    """A float64 in [0, 1) from a key and an integer."""
    return np.float64(mix(key, value) >> _S11) * (1.0 / 9007199254740992.0)


@numba.njit(cache=True)
def _keys(seed, epochs, indices):
    base = mix(np.uint64(0), seed)
    keys = np.empty(len(indices), np.uint64)
    for i in range(len(indices)):
        keys[i] = mix(mix(base, epochs[i]), indices[i])
    return keys


def example_keys(seed: int, epoch: int | np.ndarray, indices: np.ndarray) -> np.ndarray:
    """One ``uint64`` key for each example index [B] of an epoch (or epochs [B]): the only source of randomness an example may use."""
    indices = np.ascontiguousarray(indices, np.int64)
    return _keys(seed, np.ascontiguousarray(np.broadcast_to(epoch, indices.shape), np.int64), indices)
