"""Rewrites jax2onnx's graphs with operators that runtimes can fuse and quantize.

jax2onnx writes a jaxpr literally. Each pass here looks for one such pattern and replaces it by
ONNX's own operator, which computes the same; a graph without the pattern stays as it is. All passes
change an `onnx.GraphProto` in place before its constants are folded, except `join_normalization`
and `drop_unused`, which come after that.
"""

import re
from typing import Any

import numpy as np

ERF_FACTOR = 0.5**0.5  # GELU is x / 2 (1 + erf(x ERF_FACTOR))


def simplify(graph: Any) -> None:
    """Runs all passes; each sees the result of the one before."""
    passes = (
        _reshapes,
        _expansions,
        _slices,
        _products,
        _dropout,
        _pools,
        _activations,
        _gelus,
    )
    for run_pass in passes:
        run_pass(_Graph(graph))


def join_normalization(graph: Any) -> None:
    """Joins the first operations on pixels into one product and one sum.

    Their constants have a number for each column and channel. Numbers for each channel only are
    slow on (B, H, W, 3), whose last axis is too short for vector units: in ONNX Runtime they took
    12 % of EfficientNet-Lite0's time, and 30 % of a pruned one's in INT8.
    """
    wrapped = _Graph(graph)
    images = graph.input[0]
    *_, width, channels = (dim.dim_value for dim in images.type.tensor_type.shape.dim)
    casts = [n for n in wrapped.nodes if n.op_type == "Cast" and n.input[0] == images.name]
    if not casts:
        return
    value = casts[0].output[0]
    scale = np.ones(channels)
    shift = np.zeros(channels)
    chain = []
    while step := wrapped.step(value, channels):
        node, number = step
        if node.op_type in ("Div", "Mul"):
            number = 1 / number if node.op_type == "Div" else number
            scale = scale * number
            shift = shift * number
        else:
            shift = shift - number if node.op_type == "Sub" else shift + number
        chain.append(node)
        value = node.output[0]
    if len(chain) < 2:
        return
    tables = [
        wrapped.add(f"pixels_{name}", np.tile(row.astype(np.float32), (1, 1, width, 1)))
        for name, row in (("scale", scale), ("shift", shift))
    ]
    wrapped.replace(chain[0], "Mul", [casts[0].output[0], tables[0]])
    wrapped.replace(chain[-1], "Add", [chain[0].output[0], tables[1]])


def drop_unused(graph: Any) -> None:
    """Removes the operators, and then the constants, that no output depends on."""
    needed = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    arrays = [array for array in graph.initializer if array.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(arrays)


class _Graph:
    """A graph with lookup of its constants and of the operators that make and use each value.

    Attributes:
        nodes: its operators, in order.
        maker: {value: the operator whose output it is}.
    """

    def __init__(self, graph):
        self._graph = graph
        self.nodes = list(graph.node)
        self._arrays = {array.name: array for array in graph.initializer}
        self.maker = {output: node for node in graph.node for output in node.output}

    def constant(self, name):
        """Returns a constant's array; None for a computed value."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self._arrays[name]) if name in self._arrays else None

    def made_by(self, name, kind):
        """Returns the operator that makes a value if it is of this kind, else None."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type == kind else None

    def add(self, name, array):
        """Adds a constant; returns its name."""
        from onnx import numpy_helper

        self._arrays[name] = numpy_helper.from_array(array, name)
        self._graph.initializer.append(self._arrays[name])
        return name

    def split(self, node):
        """Returns (variable, number) of an operator on a value and a constant scalar.

        (None, None) for other operators, and if `node` is None.
        """
        inputs = [] if node is None else [self.constant(name) for name in node.input]
        if len(inputs) == 2:
            for i, array in enumerate(inputs):
                if array is not None and array.size == 1 and inputs[1 - i] is None:
                    return node.input[1 - i], float(array.reshape(()))
        return None, None

    def step(self, name, channels):
        """Returns the only use of a value, if that is a sum or product with channel constants.

        Args:
            name: a value of shape (B, H, W, channels).
            channels: its channels.

        Returns:
            (operator, float64 (channels,)), else None.
        """
        users = [node for node in self.nodes if name in node.input]
        if len(users) != 1 or users[0].op_type not in ("Add", "Sub", "Mul", "Div"):
            return None
        if users[0].input[0] != name:
            return None
        number = self.constant(users[0].input[1])
        if number is None or number.size not in (1, channels):
            return None
        if number.size > 1 and number.shape[-1] != channels:
            return None
        return users[0], np.broadcast_to(number.astype(np.float64).reshape(-1), channels)

    def replace(self, node, kind, inputs, **attributes):
        """Turns a node into another operator with the same outputs."""
        from onnx import helper

        node.op_type = kind
        node.domain = ""
        del node.input[:], node.attribute[:]
        node.input.extend(inputs)
        node.attribute.extend(
            helper.make_attribute(key, value) for key, value in attributes.items()
        )

    def insert(self, position, kind, inputs, output, **attributes):
        """Inserts a new operator before the operator `position`; returns its output's name."""
        from onnx import helper

        new = helper.make_node(kind, inputs, [output], name=output, **attributes)
        index = next(
            i for i, node in enumerate(self._graph.node) if node.output[0] == position.output[0]
        )
        self._graph.node.insert(index, new)
        return output

    def target(self, name):
        """Returns a shape that is concatenated from numbers and one size known only at run time.

        The result is int64, with -1 for the unknown size; None for other values.
        """
        joined = self.made_by(name, "Concat")
        parts = [self.constant(part) for part in joined.input] if joined is not None else []
        if sum(part is None for part in parts) != 1:
            return None
        return np.concatenate(
            [np.array([-1]) if part is None else part.reshape(-1) for part in parts]
        ).astype(np.int64)


def _reshapes(graph):
    """Makes shapes constant, with -1 for the batch.

    Computing a shape takes four operators, across which no runtime can fuse anything.
    """
    for node in graph.nodes:
        if node.op_type == "Reshape" and (target := graph.target(node.input[1])) is not None:
            node.input[1] = graph.add(f"{node.output[0]}_target", target)


def _expansions(graph):
    """Drops expansions to the shape that a value has already."""
    for node in graph.nodes:
        source = graph.made_by(node.input[0], "Reshape") if node.op_type == "Expand" else None
        if source is None:
            continue
        shape = graph.constant(source.input[1])
        target = graph.target(node.input[1])
        if shape is None or target is None:
            continue
        if shape.tolist() == target.tolist() and shape[0] == -1:
            graph.replace(node, "Identity", node.input[:1])


def _slices(graph):
    """Makes ends constant, which are computed if the batch is among the axes; it is never cut."""
    for node in graph.nodes:
        if node.op_type == "Slice" and (ends := graph.target(node.input[2])) is not None:
            ends = np.where(ends == -1, np.iinfo(np.int64).max, ends)
            node.input[2] = graph.add(f"{node.output[0]}_ends", ends)


def _products(graph):
    """Replaces einsums that are matrix products."""
    for node in graph.nodes:
        equation = next((a.s.decode() for a in node.attribute if a.name == "equation"), "")
        if node.op_type == "Einsum" and re.fullmatch(r"(\w+)(\w),\2(\w)->\1\3", equation):
            graph.replace(node, "MatMul", list(node.input))


def _dropout(graph):
    for node in graph.nodes:
        if node.op_type == "Dropout":
            graph.replace(node, "Identity", node.input[:1])


def _pools(graph):
    """Replaces pools over (H, W).

    jax2onnx pools (1, 1, B, H, W, C) over four axes, which ONNX Runtime does not support.
    """
    for node in graph.nodes:
        if node.op_type != "Squeeze":
            continue
        inner = graph.made_by(node.input[0], "MaxPool") or graph.made_by(node.input[0], "Conv")
        if inner is not None:
            _replace_pool(graph, node, inner)


def _replace_pool(graph, node, inner):
    """Replaces a squeezed pool over four axes by one over (H, W).

    Args:
        graph: the `_Graph`, changed in place.
        node: the Squeeze after the pool.
        inner: the pool, a MaxPool or a Conv that sums; left alone if it has other than four axes.
    """
    attributes = {a.name: list(a.ints) for a in inner.attribute if a.ints}
    if len(attributes.get("strides", ())) != 4:
        return
    outer = graph.made_by(inner.input[0], "Unsqueeze")
    source = graph.made_by(outer.input[0], "Unsqueeze").input[0]
    name = node.output[0]
    pads = attributes.get("pads", [0] * 8)
    options = {"strides": attributes["strides"][1:3], "pads": [*pads[1:3], *pads[5:7]]}
    first = graph.insert(node, "Transpose", [source], f"{name}_nchw", perm=[0, 3, 1, 2])
    if inner.op_type == "MaxPool":
        options["kernel_shape"] = attributes["kernel_shape"][1:3]
        pooled = graph.insert(node, "MaxPool", [first], f"{name}_pooled", **options)
    else:
        kernel_shape = list(graph.constant(inner.input[1]).shape[3:5])
        options |= {"kernel_shape": kernel_shape, "count_include_pad": 1}
        mean = graph.insert(node, "AveragePool", [first], f"{name}_mean", **options)
        count = graph.add(f"{name}_count", np.array(np.prod(kernel_shape), np.float32))
        pooled = graph.insert(node, "Mul", [mean, count], f"{name}_pooled")
    graph.replace(node, "Transpose", [pooled], perm=[0, 2, 3, 1])


def _activations(graph):
    """Replaces ReLU, ReLU6 and the hard sigmoid, which fuse into the convolutions before them."""
    for node in graph.nodes:
        if node.op_type not in ("Max", "Min", "Div"):
            continue
        x, number = graph.split(node)
        if x is None:
            continue
        if node.op_type == "Max" and number == 0:
            graph.replace(node, "Relu", [x])
        elif node.op_type == "Min" and number > 0:
            relu = graph.made_by(x, "Relu")
            if relu is not None:
                ends = [
                    graph.add(f"{node.output[0]}_{i}", np.array(end, np.float32))
                    for i, end in enumerate((0, number))
                ]
                graph.replace(node, "Clip", [relu.input[0], *ends])
        elif node.op_type == "Div" and number == 6:
            _replace_hard_sigmoid(graph, node, x)


def _replace_hard_sigmoid(graph, node, clipped):
    """Replaces a division by 6 by the hard sigmoid, if the dividend is ReLU6(x + 3)."""
    clip = graph.made_by(clipped, "Clip")
    if clip is None:
        return
    x, shift = graph.split(graph.made_by(clip.input[0], "Add"))
    if shift == 3 and graph.constant(clip.input[2]) == 6:
        graph.replace(node, "HardSigmoid", [x], alpha=1 / 6, beta=0.5)


def _gelus(graph):
    """Replaces the exact GELU, as written in `vision.models.layers.activations.gelu`."""
    for node in graph.nodes:
        if node.op_type != "Mul":
            continue
        for half, erf_plus_one in (node.input, reversed(node.input)):
            x, factor = graph.split(graph.made_by(half, "Mul"))
            if factor == 0.5 and _is_erf_plus_one(graph, erf_plus_one, x):
                graph.replace(node, "Gelu", [x])
                break


def _is_erf_plus_one(graph, name, x):
    """Whether a value is 1 + erf(x ERF_FACTOR)."""
    erf_value, addend = graph.split(graph.made_by(name, "Add"))
    erf = graph.made_by(erf_value, "Erf")
    if addend != 1 or erf is None:
        return False
    argument, factor = graph.split(graph.made_by(erf.input[0], "Mul"))
    return argument == x and factor is not None and abs(factor - ERF_FACTOR) < 1e-6
