"""Follows every channel of every parameter through a model, to find those that depend on others.

DepGraph, Fang et al. 2023 (arXiv:2301.12900), on the jaxpr: each index of each axis of each
parameter has a number, and arrays of these numbers follow the axes of each result. If two axes meet
in a sum, or in a product's contraction, their numbers are joined. An unknown operation fixes all
channels that enter it, so that no channel is ever cut that a smaller model would need.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.extend.core import Literal

Axis = np.ndarray | None
Axes = list[Axis]

FIXED = 0  # the number of everything that cannot be cut
ZERO = -1  # the number of zeros, such as padding
ZERO_SCALAR: Axes = []  # the axes of a scalar 0: none, recognized by identity
NESTED = {
    "checkpoint",
    "closed_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "jit",
    "pjit",
    "remat2",
}
ELEMENTWISE = {
    "abs",
    "add",
    "add_any",
    "and",
    "ceil",
    "clamp",
    "copy",
    "cos",
    "div",
    "eq",
    "erf",
    "erf_inv",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "ge",
    "gt",
    "integer_pow",
    "is_finite",
    "le",
    "log",
    "log1p",
    "logistic",
    "lt",
    "max",
    "min",
    "mul",
    "ne",
    "neg",
    "not",
    "or",
    "pow",
    "reduce_precision",
    "rem",
    "round",
    "rsqrt",
    "select_n",
    "sign",
    "sin",
    "sqrt",
    "square",
    "stop_gradient",
    "sub",
    "tanh",
    "xor",
}
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"}


class ChannelTracer:
    """Walks jaxprs and records in `edges` the joined numbers, as pairs of int arrays.

    The axes of an array are a list with an entry for each axis: an int array of its length, or None
    if the array is constant along it, as after a broadcast.
    """

    def __init__(self) -> None:
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []

    def join(self, a: Axis, b: Axis) -> Axis:
        """Joins two axes of the same length, and returns their common axis."""
        if a is None or b is None:
            return b if a is None else a
        both = (a != ZERO) & (b != ZERO) & (a != b)
        self.edges.append((a[both], b[both]))
        return np.where(a > FIXED, a, np.maximum(a, b))

    def fix(self, *axes: Axis) -> None:
        """Joins axes with `FIXED`."""
        for axis in axes:
            if axis is not None:
                self.edges.append((axis[axis > FIXED], np.full((axis > FIXED).sum(), FIXED)))

    def contract(self, a: Axis, b: Axis) -> None:
        """Joins the axes that a product sums over; zeros on one side fix the other."""
        self.join(*(None if axis is None else np.maximum(axis, FIXED) for axis in (a, b)))

    def run(self, jaxpr: Any, inputs: Sequence[Axes]) -> list[Axes]:
        """Returns the axes of a jaxpr's outputs, given those of its inputs."""
        constants = [[np.zeros(n, int) for n in v.aval.shape] for v in jaxpr.constvars]
        axes = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))

        def read(v):
            if not isinstance(v, Literal):
                return axes[v]
            if v.aval.shape == () and v.val == 0:
                return ZERO_SCALAR
            return [np.zeros(n, int) for n in v.aval.shape]

        for equation in jaxpr.eqns:
            results = self._equation(equation, [read(v) for v in equation.invars])
            axes |= dict(zip(equation.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _equation(self, equation, inputs):
        """Returns the axes of each result of an equation."""
        name = equation.primitive.name
        if name in NESTED:
            inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
            return self.run(getattr(inner, "jaxpr", inner), inputs)
        if name == "convert_element_type":
            return inputs
        if name in ELEMENTWISE:
            return [self._elementwise(inputs, equation.outvars[0].aval.shape)]
        if name in REDUCTIONS:
            return [self._without(inputs[0], equation.params["axes"])]
        rule = getattr(self, f"on_{name}", None)
        if rule is None and name.startswith("reduce_window"):
            rule = self._window
        if rule is None:
            self.fix(*(axis for axes in inputs for axis in axes))
            return [[np.zeros(n, int) for n in v.aval.shape] for v in equation.outvars]
        return [rule(inputs, equation.params, equation.outvars[0].aval.shape, equation)]

    def _elementwise(self, inputs, shape):
        result = [None] * len(shape)
        for axes in inputs:
            # a scalar goes with any shape
            for i, (axis, length) in enumerate(zip(axes, shape, strict=bool(axes))):
                if axis is not None and len(axis) != length:  # of length 1, and stretched
                    self.fix(axis)
                else:
                    result[i] = self.join(result[i], axis)
        return result

    def _without(self, axes, removed):
        self.fix(*(axes[i] for i in removed))
        return [axis for i, axis in enumerate(axes) if i not in removed]

    def on_squeeze(self, inputs, params, shape, equation):
        return self._without(inputs[0], params["dimensions"])

    def on_transpose(self, inputs, params, shape, equation):
        return [inputs[0][i] for i in params["permutation"]]

    def on_broadcast_in_dim(self, inputs, params, shape, equation):
        result = [None] * len(shape)
        lengths = equation.invars[0].aval.shape
        for i, (axis, length) in enumerate(zip(inputs[0], lengths, strict=True)):
            place = params["broadcast_dimensions"][i]
            if length == shape[place]:
                result[place] = axis
            else:
                self.fix(axis)
        return result

    def on_concatenate(self, inputs, params, shape, equation):
        along = params["dimension"]
        across = [[None if i == along else axis for i, axis in enumerate(axes)] for axes in inputs]
        result = self._elementwise(across, shape)
        lengths = [v.aval.shape[along] for v in equation.invars]
        parts = [_filled(axes[along], length) for axes, length in zip(inputs, lengths, strict=True)]
        result[along] = np.concatenate(parts)
        return result

    def on_pad(self, inputs, params, shape, equation):
        fill = ZERO if inputs[1] is ZERO_SCALAR else FIXED
        result = []
        for axis, (low, high, between), length in zip(
            inputs[0], params["padding_config"], shape, strict=True
        ):
            if (low, high, between) == (0, 0, 0):
                result.append(axis)
            elif min(low, high) < 0 or between:
                self.fix(axis)
                result.append(np.zeros(length, int))
            else:
                inside = _filled(axis, length - low - high)
                value = fill if inside.any() else FIXED
                result.append(np.pad(inside, (low, high), constant_values=value))
        return result

    def on_slice(self, inputs, params, shape, equation):
        starts = params["start_indices"]
        limits = params["limit_indices"]
        strides = params["strides"] or (1,) * len(shape)
        result = []
        for axis, start, limit, stride, length in zip(
            inputs[0], starts, limits, strides, shape, strict=True
        ):
            if axis is None or length == len(axis):
                result.append(axis)
            else:
                self.fix(axis)
                result.append(np.zeros(len(range(start, limit, stride)), int))
        return result

    def on_dynamic_slice(self, inputs, params, shape, equation):
        result = []
        lengths = equation.invars[0].aval.shape
        for axis, old_length, length in zip(inputs[0], lengths, shape, strict=True):
            if old_length == length:
                result.append(axis)
            else:
                self.fix(axis)
                result.append(np.zeros(length, int))
        return result

    def on_gather(self, inputs, params, shape, equation):
        numbers = params["dimension_numbers"]
        sizes = params["slice_sizes"]
        dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        remaining = [i for i in range(len(sizes)) if i not in dropped]
        result = [np.zeros(length, int) for length in shape]
        uncut = {i for i in remaining if sizes[i] == equation.invars[0].aval.shape[i]}
        self.fix(*(axis for i, axis in enumerate(inputs[0]) if i not in uncut))
        for place, i in zip(numbers.offset_dims, remaining, strict=True):
            if i in uncut:
                result[place] = inputs[0][i]
        return result

    def _window(self, inputs, params, shape, equation):
        result = []
        sides = params["window_dimensions"]
        strides = params["window_strides"]
        for axis, side, stride, length in zip(inputs[0], sides, strides, shape, strict=True):
            if side == stride == 1 and (axis is None or len(axis) == length):
                result.append(axis)
            else:
                self.fix(axis)
                result.append(np.zeros(length, int))
        return result

    def on_dot_general(self, inputs, params, shape, equation):
        (left_summed, right_summed), (left_batch, right_batch) = params["dimension_numbers"]
        left, right = inputs
        for i, j in zip(left_summed, right_summed, strict=True):
            self.contract(left[i], right[j])
        batch = [self.join(left[i], right[j]) for i, j in zip(left_batch, right_batch, strict=True)]
        left_free = [a for i, a in enumerate(left) if i not in {*left_summed, *left_batch}]
        right_free = [a for i, a in enumerate(right) if i not in {*right_summed, *right_batch}]
        return batch + left_free + right_free

    def on_conv_general_dilated(self, inputs, params, shape, equation):
        numbers = params["dimension_numbers"]
        groups = params["feature_group_count"]
        x, kernel = inputs
        out = numbers.rhs_spec[0]
        x_in = x[numbers.lhs_spec[1]]
        kernel_in = kernel[numbers.rhs_spec[1]]
        features = kernel[out]
        self.fix(*(x[i] for i in (numbers.lhs_spec[0], *numbers.lhs_spec[2:])))
        self.fix(*(kernel[i] for i in numbers.rhs_spec[2:]))
        if groups == 1:
            self.contract(x_in, kernel_in)
        else:  # a group can only be cut as a whole
            self.fix(kernel_in)
            features = features.reshape(groups, -1)
            self._unite(np.concatenate([np.maximum(x_in, FIXED).reshape(groups, -1), features], 1))
            features = features.reshape(-1)
        result = [np.zeros(length, int) for length in shape]
        result[numbers.out_spec[1]] = features
        return result

    def on_reshape(self, inputs, params, shape, equation):
        axes, *_ = inputs
        old = equation.invars[0].aval.shape
        self.fix(*(axis for axis, length in zip(axes, old, strict=True) if length == 1))
        result = [None] * len(shape)
        for before, after in _segments(old, shape):
            if len(before) == len(after) == 1:
                result[after[0]] = axes[before[0]]
                continue
            marked = [i for i in before if axes[i] is not None and axes[i].any()]
            if len(marked) > 1:
                self.fix(*(axes[i] for i in marked))
            grid = np.zeros([old[i] for i in before], int)
            if len(marked) == 1:
                grid = grid + axes[marked[0]].reshape([-1 if i == marked[0] else 1 for i in before])
            parts = self._split(grid.reshape([shape[i] for i in after]))
            for place, axis in zip(after, parts, strict=True):
                result[place] = axis
        return result

    def _split(self, grid):
        """Returns the axes of a grid of numbers, which can be cut along one of them only.

        That is the only axis along which the numbers differ. If there is none, it is the last but
        one: for channels by group, entire groups are cut, so that each keeps its depth.
        """
        rows = [np.moveaxis(grid, i, 0).reshape(length, -1) for i, length in enumerate(grid.shape)]
        separable = [i for i, row in enumerate(rows) if (row == row[:, :1]).all()]
        chosen = separable[0] if separable else max(0, grid.ndim - 2)
        self._unite(rows[chosen])
        parts = [np.zeros(length, int) for length in grid.shape]
        if grid.ndim == 1:
            return [grid]
        parts[chosen] = rows[chosen].max(1)
        return parts

    def _unite(self, rows):
        """Joins all numbers of each row."""
        self.edges.append((np.repeat(rows[:, 0], rows.shape[1] - 1), rows[:, 1:].reshape(-1)))


def _filled(axis, length):
    return np.zeros(length, int) if axis is None else axis


def _segments(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yields (axes before, axes after) of a reshape, in the shortest segments of equal size.

    Axes of length 1 are left out.
    """
    old_axes, new_axes = (
        [(i, length) for i, length in enumerate(shape) if length != 1] for shape in (old, new)
    )
    while old_axes and new_axes:
        before = [old_axes.pop(0)]
        after = [new_axes.pop(0)]
        while (a := math.prod(n for _, n in before)) != (b := math.prod(n for _, n in after)):
            if a < b:
                before.append(old_axes.pop(0))
            else:
                after.append(new_axes.pop(0))
        yield [i for i, _ in before], [i for i, _ in after]
