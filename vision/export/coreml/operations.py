"""The operations of MIL that exported classifiers consist of, in NumPy.

Each takes MIL's parameters by their names, as Apple's reference of the iOS 18 operations defines
them, and returns an array. Floating-point inputs are float32.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

from vision.export.coreml.windows import conv, max_pool


def _linear(x, weight, bias=0.0):
    return x @ weight.T + bias


def _matmul(x, y, transpose_x=False, transpose_y=False):
    x = x.swapaxes(-1, -2) if transpose_x else x
    y = y.swapaxes(-1, -2) if transpose_y else y
    return x @ y


def _attention(query, key, value, attn_mask=None):
    scores = query @ key.swapaxes(-1, -2) / np.float32(query.shape[-1] ** 0.5)
    if attn_mask is not None and attn_mask.dtype == np.bool_:
        scores = np.where(attn_mask, scores, -np.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return _softmax(scores) @ value


def _softmax(x, axis=-1):
    powers = np.exp(x - x.max(int(axis), keepdims=True))
    return powers / powers.sum(int(axis), keepdims=True)


def _gelu(x, mode="EXACT"):
    if str(mode) == "EXACT":
        return x / 2 * (1 + scipy.special.erf(x * np.float32(0.5**0.5)))
    if str(mode) == "TANH_APPROXIMATION":
        return x / 2 * (1 + np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + 0.044715 * x**3)))
    raise ValueError(f"gelu of mode {mode} is not implemented")


def _rsqrt(x, epsilon=1e-12):
    return 1 / np.sqrt(x + np.float32(epsilon))


def _log(x, epsilon=1e-45):
    return np.log(x + np.float32(epsilon))


def _reduce(function):
    def reduced(x, axes=None, keep_dims=False):
        return function(x, axis=_axes(axes), keepdims=bool(keep_dims))

    return reduced


def _axes(axes):
    return None if axes is None else tuple(int(axis) for axis in np.ravel(axes))


def _reshape(x, shape):
    return x.reshape([x.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)])


def _slice(x, begin, end, stride=None, begin_mask=None, end_mask=None, squeeze_mask=None):
    none = np.zeros(x.ndim, bool)
    masks = [none if mask is None else mask for mask in (begin_mask, end_mask, squeeze_mask)]
    strides = np.ones(x.ndim, int) if stride is None else stride
    index: list[int | slice] = []
    for axis, length in enumerate(x.shape):
        first, last, step = (int(values[axis]) for values in (begin, end, strides))
        first += length if first < 0 else 0
        last += length if last < 0 else 0
        if masks[2][axis]:
            index.append(first)
            continue
        start = None if masks[0][axis] else first
        index.append(slice(start, None if masks[1][axis] else last, step))
    return x[tuple(index)]


def _concat(values, axis, interleave=False):
    if interleave:
        raise ValueError("concat with interleave is not implemented")
    return np.concatenate(values, int(axis))


def _pad(x, pad, mode="constant", constant_val=0.0):
    widths = np.reshape(pad, (-1, 2)).tolist()  # of the last dimensions
    widths = [[0, 0]] * (x.ndim - len(widths)) + widths
    if str(mode) == "constant":
        return np.pad(x, widths, constant_values=constant_val)
    return np.pad(x, widths, {"reflect": "reflect", "replicate": "edge"}[str(mode)])


def _dequantized(data, scale, offset=None):
    """Computes constexpr_blockwise_shift_scale: each scale belongs to a block of the data."""
    for axis, count in enumerate(scale.shape):
        repeats = data.shape[axis] // count
        scale = scale.repeat(repeats, axis)
        offset = None if offset is None else offset.repeat(repeats, axis)
    return (data.astype(np.float32) - (0 if offset is None else offset)) * scale


def _gather(x, indices, axis=0, batch_dims=0, validate_indices=False):
    if batch_dims:
        raise ValueError("gather with batch_dims is not implemented")
    return np.take(x, indices, int(axis))


# Parameters have MIL's names: x, y and so on.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "abs": lambda x: np.abs(x),
    "add": lambda x, y: x + y,
    "cast": lambda x, dtype: x,  # the declared type of the result says the same
    "concat": _concat,
    "constexpr_blockwise_shift_scale": _dequantized,
    "conv": conv,
    "equal": lambda x, y: x == y,
    "erf": lambda x: scipy.special.erf(x),
    "exp": lambda x: np.exp(x),
    "floor": lambda x: np.floor(x),
    "gather": _gather,
    "gelu": _gelu,
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "linear": _linear,
    "log": _log,
    "logical_and": lambda x, y: x & y,
    "logical_not": lambda x: ~x,
    "logical_or": lambda x, y: x | y,
    "logical_xor": lambda x, y: x ^ y,
    "matmul": _matmul,
    "max_pool": max_pool,
    "maximum": lambda x, y: np.maximum(x, y),
    "minimum": lambda x, y: np.minimum(x, y),
    "mul": lambda x, y: x * y,
    "not_equal": lambda x, y: x != y,
    "pad": _pad,
    "pow": lambda x, y: x**y,
    "real_div": lambda x, y: x / y,
    "reduce_max": _reduce(np.max),
    "reduce_mean": _reduce(np.mean),
    "reduce_min": _reduce(np.min),
    "reduce_prod": _reduce(np.prod),
    "reduce_sum": _reduce(np.sum),
    "reshape": _reshape,
    "reverse": lambda x, axes=None: np.flip(x, _axes(axes)),
    "round": lambda x: np.round(x),
    "rsqrt": _rsqrt,
    "scaled_dot_product_attention": _attention,
    "select": lambda cond, a, b: np.where(cond, a, b),
    "sign": lambda x: np.sign(x),
    "slice_by_index": _slice,
    "softmax": _softmax,
    "sqrt": lambda x: np.sqrt(x),
    "sub": lambda x, y: x - y,
    "tanh": lambda x: np.tanh(x),
    "tile": lambda x, reps: np.tile(x, np.ravel(reps)),
    "transpose": lambda x, perm: x.transpose(_axes(perm)),
}
