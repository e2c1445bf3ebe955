"""Follows every channel of every parameter through a model's forward pass, to find which of them
hang together.

DepGraph, Fang et al. 2023 (arXiv:2301.12900), on the jaxpr: a number stands for each index of each
axis of each parameter, and arrays of them follow the axes of what is computed. Where two axes meet,
in a sum or in a product's contraction, their numbers are joined. An operation that is not known
here fixes all channels that enter it, so that nothing is ever cut that a new model could not be
without.
"""

import math

import numpy as np
from jax.extend.core import Literal

# what cannot be cut; what is zero, as in front of a sum that fills in the rest
FIXED = 0
ZERO = -1
NOUGHT = []  # the axes of a scalar that is 0: it has none, but is known by its identity
NESTED = {
    "jit",
    "pjit",
    "custom_jvp_call",
    "custom_vjp_call",
    "checkpoint",
    "remat2",
    "closed_call",
}
ELEMENTWISE = {
    *(
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
    ),
    *(
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
    ),
    *(
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
    ),
    *("sin", "sqrt", "square", "stop_gradient", "sub", "tanh", "xor"),
}
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"}


class Trace:
    """Walks jaxprs; `edges` then has what was joined: pairs of int arrays.

    The axes of an array are a list with one entry an axis: an int array of its length, or None
    where it is the same all along, as after a broadcast.
    """

    def __init__(self):
        self.edges = []

    def join(self, a, b):
        """Joins two axes of the same length, and returns their common axis."""
        if a is None or b is None:
            return b if a is None else a
        both = (a != ZERO) & (b != ZERO) & (a != b)
        self.edges.append((a[both], b[both]))
        return np.where(a > FIXED, a, np.maximum(a, b))

    def fix(self, *axes):
        for axis in axes:
            if axis is not None:
                self.edges.append((axis[axis > FIXED], np.full((axis > FIXED).sum(), FIXED)))

    def contract(self, a, b):
        """Joins what a product sums over; zeros there are not known to the other side."""
        self.join(*(None if axis is None else np.maximum(axis, FIXED) for axis in (a, b)))

    def run(self, jaxpr, inputs):
        """Returns the axes of a jaxpr's outputs, from those of its inputs."""
        fixed = [[np.zeros(n, int) for n in v.aval.shape] for v in jaxpr.constvars]
        axes = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*fixed, *inputs], strict=True))

        def read(v):
            if not isinstance(v, Literal):
                return axes[v]
            return (
                NOUGHT
                if v.aval.shape == () and v.val == 0
                else [np.zeros(n, int) for n in v.aval.shape]
            )

        for equation in jaxpr.eqns:
            found = self._equation(equation, [read(v) for v in equation.invars])
            axes |= dict(zip(equation.outvars, found, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _equation(self, equation, inputs):
        """Returns the axes of each result of an equation."""
        name = equation.primitive.name
        inner = None
        if name in NESTED:
            inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
            return self.run(getattr(inner, "jaxpr", inner), inputs)
        if name == "convert_element_type":
            return inputs
        if name in ELEMENTWISE:
            return [self._elementwise(inputs, equation.outvars[0].aval.shape)]
        if name in REDUCTIONS:
            return [self._without(inputs[0], equation.params["axes"])]
        rule = getattr(self, f"on_{name}", None) or (
            self._window if name.startswith("reduce_window") else None
        )
        if rule is None:
            self.fix(*(axis for axes in inputs for axis in axes))
            return [[np.zeros(n, int) for n in v.aval.shape] for v in equation.outvars]
        return [rule(inputs, equation.params, equation.outvars[0].aval.shape, equation)]

    def _elementwise(self, inputs, shape):
        found = [None] * len(shape)
        for axes in inputs:
            # a scalar goes with any shape
            for i, (axis, length) in enumerate(zip(axes, shape, strict=bool(axes))):
                if axis is not None and len(axis) != length:  # of length 1, it is stretched
                    self.fix(axis)
                else:
                    found[i] = self.join(found[i], axis)
        return found

    def _without(self, axes, removed):
        self.fix(*(axes[i] for i in removed))
        return [axis for i, axis in enumerate(axes) if i not in removed]

    def on_squeeze(self, inputs, params, shape, equation):
        return self._without(inputs[0], params["dimensions"])

    def on_transpose(self, inputs, params, shape, equation):
        return [inputs[0][i] for i in params["permutation"]]

    def on_broadcast_in_dim(self, inputs, params, shape, equation):
        found = [None] * len(shape)
        for i, (axis, length) in enumerate(
            zip(inputs[0], equation.invars[0].aval.shape, strict=True)
        ):
            place = params["broadcast_dimensions"][i]
            if length == shape[place]:
                found[place] = axis
            else:
                self.fix(axis)
        return found

    def on_concatenate(self, inputs, params, shape, equation):
        along = params["dimension"]
        others = [[None if i == along else axis for i, axis in enumerate(axes)] for axes in inputs]
        found = self._elementwise(others, shape)
        lengths = [v.aval.shape[along] for v in equation.invars]
        parts = [_filled(axes[along], length) for axes, length in zip(inputs, lengths, strict=True)]
        found[along] = np.concatenate(parts)
        return found

    def on_pad(self, inputs, params, shape, equation):
        fill = ZERO if inputs[1] is NOUGHT else FIXED
        found = []
        for axis, (low, high, between), length in zip(
            inputs[0], params["padding_config"], shape, strict=True
        ):
            if (low, high, between) == (0, 0, 0):
                found.append(axis)
            elif min(low, high) < 0 or between:
                self.fix(axis)
                found.append(np.zeros(length, int))
            else:
                inside = _filled(axis, length - low - high)
                found.append(
                    np.pad(inside, (low, high), constant_values=fill if inside.any() else FIXED)
                )
        return found

    def on_slice(self, inputs, params, shape, equation):
        starts = params["start_indices"]
        limits = params["limit_indices"]
        strides = params["strides"] or (1,) * len(shape)
        found = []
        for axis, start, limit, stride, length in zip(
            inputs[0], starts, limits, strides, shape, strict=True
        ):
            whole = axis is None or length == len(axis)
            if not whole:
                self.fix(axis)
            found.append(axis if whole else np.zeros(len(range(start, limit, stride)), int))
        return found

    def on_dynamic_slice(self, inputs, params, shape, equation):
        whole = [v == s for v, s in zip(equation.invars[0].aval.shape, shape, strict=True)]
        self.fix(*(axis for axis, all_of_it in zip(inputs[0], whole, strict=True) if not all_of_it))
        axes = zip(inputs[0], whole, shape, strict=True)
        return [axis if all_of_it else np.zeros(length, int) for axis, all_of_it, length in axes]

    def on_gather(self, inputs, params, shape, equation):
        numbers = params["dimension_numbers"]
        sizes = params["slice_sizes"]
        dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        kept = [i for i in range(len(sizes)) if i not in dropped]
        found = [np.zeros(length, int) for length in shape]
        whole = {i for i in kept if sizes[i] == equation.invars[0].aval.shape[i]}
        self.fix(*(axis for i, axis in enumerate(inputs[0]) if i not in whole))
        for place, i in zip(numbers.offset_dims, kept, strict=True):
            found[place] = inputs[0][i] if i in whole else found[place]
        return found

    def _window(self, inputs, params, shape, equation):
        found = []
        sides = zip(
            inputs[0], params["window_dimensions"], params["window_strides"], shape, strict=True
        )
        for axis, side, stride, length in sides:
            alone = side == stride == 1 and (axis is None or len(axis) == length)
            if not alone:
                self.fix(axis)
            found.append(axis if alone else np.zeros(length, int))
        return found

    def on_dot_general(self, inputs, params, shape, equation):
        (left_summed, right_summed), (left_batch, right_batch) = params["dimension_numbers"]
        left, right = inputs
        for i, j in zip(left_summed, right_summed, strict=True):
            self.contract(left[i], right[j])
        batch = [self.join(left[i], right[j]) for i, j in zip(left_batch, right_batch, strict=True)]
        rest = [axis for i, axis in enumerate(left) if i not in {*left_summed, *left_batch}]
        return (
            batch
            + rest
            + [axis for i, axis in enumerate(right) if i not in {*right_summed, *right_batch}]
        )

    def on_conv_general_dilated(self, inputs, params, shape, equation):
        numbers = params["dimension_numbers"]
        groups = params["feature_group_count"]
        (x, kernel) = inputs
        out = numbers.rhs_spec[0]
        x_in = x[numbers.lhs_spec[1]]
        kernel_in = kernel[numbers.rhs_spec[1]]
        features = kernel[out]
        self.fix(*(x[i] for i in (numbers.lhs_spec[0], *numbers.lhs_spec[2:])))
        self.fix(*(kernel[i] for i in numbers.rhs_spec[2:]))
        if groups == 1:
            self.contract(x_in, kernel_in)
        else:  # a group is cut as a whole
            self.fix(kernel_in)
            features = features.reshape(groups, -1)
            self._unite(np.concatenate([np.maximum(x_in, FIXED).reshape(groups, -1), features], 1))
            features = features.reshape(-1)
        found = [np.zeros(length, int) for length in shape]
        found[numbers.out_spec[1]] = features
        return found

    def on_reshape(self, inputs, params, shape, equation):
        (axes, *_) = inputs
        old = equation.invars[0].aval.shape
        self.fix(*(axis for axis, length in zip(axes, old, strict=True) if length == 1))
        found = [None] * len(shape)
        for before, after in _segments(old, shape):
            if len(before) == len(after) == 1:
                found[after[0]] = axes[before[0]]
                continue
            marked = [i for i in before if axes[i] is not None and axes[i].any()]
            if len(marked) > 1:
                self.fix(*(axes[i] for i in marked))
            sizes = [old[i] for i in before]
            flat = np.zeros(sizes, int)
            if len(marked) == 1:
                at = before.index(marked[0])
                flat = flat + axes[marked[0]].reshape(
                    [-1 if i == at else 1 for i in range(len(sizes))]
                )
            parts = self._split(flat.reshape([shape[i] for i in after]))
            for place, axis in zip(after, parts, strict=True):
                found[place] = axis
        return found

    def _split(self, grid):
        """Returns the axes of a grid of numbers; only along one of them a part can be cut.

        That is the one along which alone the numbers differ. Where there is none it is the last but
        one: of channels by group, whole groups are cut, so that each keeps its depth.
        """
        rows = [np.moveaxis(grid, i, 0).reshape(length, -1) for i, length in enumerate(grid.shape)]
        alone = [i for i, row in enumerate(rows) if (row == row[:, :1]).all()]
        chosen = alone[0] if alone else max(0, grid.ndim - 2)
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


def _segments(old, new):
    """Yields (axes before, axes after) of a reshape, in the shortest groups of as many elements;
    those of length 1 are left out."""
    old, new = (
        [[i, length] for i, length in enumerate(shape) if length != 1] for shape in (old, new)
    )
    while old and new:
        before = [old.pop(0)]
        after = [new.pop(0)]
        while (a := math.prod(n for _, n in before)) != (b := math.prod(n for _, n in after)):
            before, after = (
                (before + [old.pop(0)], after) if a < b else (before, after + [new.pop(0)])
            )
        yield [i for i, _ in before], [i for i, _ in after]
