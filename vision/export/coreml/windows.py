"""MIL's operations on the windows of a map, in NumPy: convolution and maximum pooling.

Maps are (N, C, H, W). Both add up, or compare, shifted copies of the map: one for each place in the
window.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np


def conv(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
) -> np.ndarray:
    """Returns a convolution, (N, outputs, H', W').

    Args:
        x: (N, C, H, W).
        weight: the kernels, (outputs, C / groups, h, w).
        bias: one number for each output; None for none.
        strides, dilations: of rows and of columns.
        pad_type: "valid", "custom", "same" or "same_lower".
        pad: rows above and below, columns left and right, for "custom".
        groups: how many groups the channels are divided into, each with its own kernels.
    """
    groups = int(groups)
    outputs, inputs, *sides = weight.shape
    spans = [(n - 1) * int(d) + 1 for n, d in zip(sides, dilations, strict=True)]
    x = np.pad(x, _padding(x.shape[2:], spans, strides, str(pad_type), pad))
    kernels = weight.reshape(groups, outputs // groups, inputs, -1)
    total = np.zeros((), x.dtype)
    for place, part in enumerate(_shifted(x, sides, spans, strides, dilations)):
        columns = part.reshape(len(part), groups, inputs, -1)
        total = total + kernels[..., place] @ columns
    result = total.reshape(len(part), outputs, *part.shape[2:])
    return result if bias is None else result + bias[:, None, None]


def max_pool(
    x: np.ndarray,
    kernel_sizes: Sequence[int],
    *,
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    ceil_mode: bool = False,
) -> np.ndarray:
    """Returns the maximum of each window, (N, C, H', W'); parameters as in `conv`.

    Raises:
        ValueError: windows that are cut off at the far side, `ceil_mode`, are not implemented.
    """
    if ceil_mode:
        raise ValueError("max_pool with ceil_mode is not implemented")
    sides = [int(n) for n in kernel_sizes]
    widths = _padding(x.shape[2:], sides, strides, str(pad_type), pad)
    x = np.pad(x, widths, constant_values=-np.inf)
    return functools.reduce(np.maximum, _shifted(x, sides, sides, strides, (1, 1)))


def _padding(shape, spans, strides, kind, pad):
    """Returns [(before, after)] for each dimension of a map.

    Args:
        shape: height and width.
        spans: pixels from a window's first to its last.
        strides, kind, pad: see `conv`.
    """
    none = [(0, 0), (0, 0)]
    if kind == "valid":
        return none + [(0, 0) for _ in shape]
    if kind == "custom":
        return none + [(int(pad[2 * i]), int(pad[2 * i + 1])) for i in range(len(shape))]
    widths = []
    for length, span, stride in zip(shape, spans, map(int, strides), strict=True):
        total = max((-(-length // stride) - 1) * stride + span - length, 0)
        less = total // 2
        widths.append((less, total - less) if kind == "same" else (total - less, less))
    return none + widths


def _shifted(x, sides, spans, strides, dilations):
    """Yields what each window has at its first place (N, C, H', W'), at its second, and so on."""
    lengths = zip(x.shape[2:], spans, map(int, strides), strict=True)
    ends = [((length - span) // stride * stride, stride) for length, span, stride in lengths]
    for place in itertools.product(*map(range, sides)):
        starts = [n * int(d) for n, d in zip(place, dilations, strict=True)]
        slices = [
            slice(start, start + end + 1, stride)
            for start, (end, stride) in zip(starts, ends, strict=True)
        ]
        yield x[(slice(None), slice(None), *slices)]
