"""Matrix products of JAX's, with any axes, as products of batches of matrices."""

import dataclasses
import math
from collections.abc import Sequence

Dimensions = tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]
Layout = tuple[tuple[int, ...], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Product:
    """For each index of the batch, a matrix (rows, depth) times one (depth, columns).

    Attributes:
        batch: lengths of the batch's axes; () if there are none.
        rows, depth, columns: lengths.
        first: strides, in elements, of the first array's batch axes, of its rows and its depth.
        second: strides of the second one's batch axes, of its depth and its columns.
    """

    batch: tuple[int, ...]
    rows: int
    depth: int
    columns: int
    first: tuple[int, ...]
    second: tuple[int, ...]

    @property
    def flops(self) -> int:
        """Number of multiplications and additions."""
        return 2 * math.prod(self.batch) * self.rows * self.depth * self.columns

    def layouts(self) -> tuple[Layout, Layout, Layout]:
        """Returns (shape, strides) of both arrays and of the result, which is contiguous."""
        shape = (*self.batch, self.rows, self.columns)
        return (
            ((*self.batch, self.rows, self.depth), self.first),
            ((*self.batch, self.depth, self.columns), self.second),
            (shape, _strides(shape)),
        )


def recognize(
    first: Sequence[int], second: Sequence[int], dimensions: Dimensions
) -> Product | None:
    """Returns the product that `jax.lax.dot_general` computes of contiguous arrays.

    None if the rows, the columns or the depth consist of axes that are not beside each other.

    Args:
        first, second: shapes.
        dimensions: ((contracted axes of the first, of the second), (batch axes of both)).
    """
    (first_depth, second_depth), (first_batch, second_batch) = dimensions
    rows = [axis for axis in range(len(first)) if axis not in (*first_depth, *first_batch)]
    columns = [axis for axis in range(len(second)) if axis not in (*second_depth, *second_batch)]
    merged = [
        _merge(first, rows),
        _merge(first, first_depth),
        _merge(second, second_depth),
        _merge(second, columns),
    ]
    if None in merged:
        return None
    (m, row), (k, depth_of_first), (_, depth_of_second), (n, column) = merged
    return Product(
        batch=tuple(first[axis] for axis in first_batch),
        rows=m,
        depth=k,
        columns=n,
        first=(*(_strides(first)[axis] for axis in first_batch), row, depth_of_first),
        second=(*(_strides(second)[axis] for axis in second_batch), depth_of_second, column),
    )


def _strides(shape):
    """Returns the strides of a contiguous array, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _merge(shape, axes):
    """Returns (length, stride) of the axis that some axes are together; None if they are not."""
    strides = _strides(shape)
    length, stride = 1, 1
    for axis in reversed(axes):
        if shape[axis] == 1:
            continue
        if length == 1:
            stride = strides[axis]
        elif strides[axis] != length * stride:
            return None
        length *= shape[axis]
    return length, stride
