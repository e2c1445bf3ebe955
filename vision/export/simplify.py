"""Rewrites of jax2onnx's graphs: the same numbers from the operators that runtimes know to fuse and
to quantize.

jax2onnx writes what a jaxpr says. Each pass here looks for one such spelling and puts ONNX's own
operator in its place; a graph that has none is left as it is. All take and change an
`onnx.GraphProto` before its constants are folded, but for `join_normalization` and `drop_unused`,
which come after that.
"""

import re

import numpy as np

ERF = 0.5**0.5  # GELU is x / 2 (1 + erf(x ERF))


def simplify(graph):
    """Runs all passes, each of which sees what the one before has left."""
    for step in (
        _reshapes,
        _expansions,
        _slices,
        _products,
        _dropout,
        _pools,
        _activations,
        _gelus,
    ):
        step(_Graph(graph))


def join_normalization(graph):
    """Makes one product and one sum of what is done to pixels first, with a number for each column
    and channel.

    Numbers for each channel alone are slow on (B, H, W, 3), whose last axis is too short for vector
    units: in ONNX Runtime they took 12 % of EfficientNet-Lite0's time, and 30 % of a pruned one's
    in INT8.
    """
    known = _Graph(graph)
    (images,) = graph.input
    *_, width, channels = (dim.dim_value for dim in images.type.tensor_type.shape.dim)
    cast = next(
        (node for node in known.nodes if node.op_type == "Cast" and node.input[0] == images.name),
        None,
    )
    value = cast and cast.output[0]
    scale = np.ones(channels)
    shift = np.zeros(channels)
    chain = []
    while found := known.step(value, channels):
        node, number = found
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
        known.add(f"pixels_{name}", np.tile(row.astype(np.float32), (1, 1, width, 1)))
        for name, row in (("scale", scale), ("shift", shift))
    ]
    known.replace(chain[0], "Mul", [cast.output[0], tables[0]])
    known.replace(chain[-1], "Add", [chain[0].output[0], tables[1]])


def drop_unused(graph):
    """Removes the operators, and then the constants, that no output depends on."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    arrays = [array for array in graph.initializer if array.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(arrays)


class _Graph:
    """A graph with its constants and what makes and uses each value.

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
        """Returns a constant's array; None for what is computed."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self._arrays[name]) if name in self._arrays else None

    def made_by(self, name, kind):
        """Returns the operator of this kind that makes a value; None where another one does."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type == kind else None

    def add(self, name, array):
        """Adds a constant; returns its name."""
        from onnx import numpy_helper

        self._arrays[name] = numpy_helper.from_array(array, name)
        self._graph.initializer.append(self._arrays[name])
        return name

    def split(self, node):
        """Returns (variable, number) of an operator on a value and a constant scalar; (None, None)
        of another."""
        found = [self.constant(name) for name in node.input]
        for i, array in enumerate(found):
            if len(found) == 2 and array is not None and array.size == 1 and found[1 - i] is None:
                return node.input[1 - i], float(array.reshape(()))
        return None, None

    def step(self, name, channels):
        """Returns (operator, float64 (channels,)) of the sum or product with constants, one a
        channel, which is all that a value (B, H, W, channels) is used for; None where it is not."""
        users = [node for node in self.nodes if name in node.input]
        if (
            len(users) != 1
            or users[0].op_type not in ("Add", "Sub", "Mul", "Div")
            or users[0].input[0] != name
        ):
            return None
        number = self.constant(users[0].input[1])
        if (
            number is None
            or number.size not in (1, channels)
            or (number.size > 1 and number.shape[-1] != channels)
        ):
            return None
        return users[0], np.broadcast_to(number.astype(np.float64).reshape(-1), channels)

    def replace(self, node, kind, inputs, **attributes):
        """Makes another operator of a node, with the same outputs."""
        from onnx import helper

        node.op_type = kind
        node.domain = ""
        del node.input[:], node.attribute[:]
        node.input.extend(inputs)
        node.attribute.extend(
            helper.make_attribute(key, value) for key, value in attributes.items()
        )

    def insert(self, position, kind, inputs, output, **attributes):
        """Puts a new operator before another, `position`; returns its output's name."""
        from onnx import helper

        new = helper.make_node(kind, inputs, [output], name=output, **attributes)
        index = next(
            i for i, node in enumerate(self._graph.node) if node.output[0] == position.output[0]
        )
        self._graph.node.insert(index, new)
        return output

    def target(self, name):
        """Returns a shape that is put together from numbers and one size unknown until it runs,
        int64, there -1.

        None where it is not.
        """
        joined = self.made_by(name, "Concat")
        parts = [self.constant(part) for part in joined.input] if joined is not None else []
        if sum(part is None for part in parts) != 1:
            return None
        return np.concatenate(
            [np.array([-1]) if part is None else part.reshape(-1) for part in parts]
        ).astype(np.int64)


def _reshapes(graph):
    """Constant shapes, -1 for the batch: computing it takes four operators, between which no
    runtime fuses anything."""
    for node in graph.nodes:
        if node.op_type == "Reshape" and (target := graph.target(node.input[1])) is not None:
            node.input[1] = graph.add(f"{node.output[0]}_target", target)


def _expansions(graph):
    """Drops those to the shape that a value has already."""
    for node in graph.nodes:
        source = graph.made_by(node.input[0], "Reshape") if node.op_type == "Expand" else None
        if source is None:
            continue
        have = graph.constant(source.input[1])
        want = graph.target(node.input[1])
        if (
            have is not None
            and want is not None
            and have.tolist() == want.tolist()
            and have[0] == -1
        ):
            graph.replace(node, "Identity", node.input[:1])


def _slices(graph):
    """Constant ends, which are computed where the batch is among the axes; it is never cut."""
    for node in graph.nodes:
        if node.op_type == "Slice" and (ends := graph.target(node.input[2])) is not None:
            node.input[2] = graph.add(
                f"{node.output[0]}_ends", np.where(ends == -1, np.iinfo(np.int64).max, ends)
            )


def _products(graph):
    """Einsums that are products of matrices."""
    for node in graph.nodes:
        equation = next((a.s.decode() for a in node.attribute if a.name == "equation"), "")
        if node.op_type == "Einsum" and re.fullmatch(r"(\w+)(\w),\2(\w)->\1\3", equation):
            graph.replace(node, "MatMul", list(node.input))


def _dropout(graph):
    for node in graph.nodes:
        if node.op_type == "Dropout":
            graph.replace(node, "Identity", node.input[:1])


def _pools(graph):
    """Pooling over (H, W): jax2onnx pools (1, 1, B, H, W, C) over four axes, which ONNX Runtime
    does not know."""
    for node in graph.nodes:
        if node.op_type != "Squeeze":
            continue
        inner = graph.made_by(node.input[0], "MaxPool") or graph.made_by(node.input[0], "Conv")
        if inner is None:
            continue
        known = {a.name: list(a.ints) for a in inner.attribute if a.ints}
        if len(known.get("strides", ())) != 4:
            continue
        outer = graph.made_by(inner.input[0], "Unsqueeze")
        source = graph.made_by(outer.input[0], "Unsqueeze").input[0]
        name = node.output[0]
        pads = known.get("pads", [0] * 8)
        options = {"strides": known["strides"][1:3], "pads": [*pads[1:3], *pads[5:7]]}
        first = graph.insert(node, "Transpose", [source], f"{name}_nchw", perm=[0, 3, 1, 2])
        if inner.op_type == "MaxPool":
            options["kernel_shape"] = known["kernel_shape"][1:3]
            pooled = graph.insert(node, "MaxPool", [first], f"{name}_pooled", **options)
        else:
            options["kernel_shape"] = list(graph.constant(inner.input[1]).shape[3:5])
            mean = graph.insert(
                node, "AveragePool", [first], f"{name}_mean", count_include_pad=1, **options
            )
            count = graph.add(
                f"{name}_count", np.array(np.prod(options["kernel_shape"]), np.float32)
            )
            pooled = graph.insert(node, "Mul", [mean, count], f"{name}_pooled")
        graph.replace(node, "Transpose", [pooled], perm=[0, 2, 3, 1])


def _activations(graph):
    """ReLU, ReLU6 and the hard sigmoid, which fuse into the convolutions before them."""
    for node in graph.nodes:
        x, number = graph.split(node) if node.op_type in ("Max", "Min", "Div") else (None, None)
        if x is None:
            continue
        if node.op_type == "Max" and number == 0:
            graph.replace(node, "Relu", [x])
        elif (
            node.op_type == "Min" and number > 0 and (relu := graph.made_by(x, "Relu")) is not None
        ):
            ends = (
                graph.add(f"{node.output[0]}_{i}", np.array(end, np.float32))
                for i, end in enumerate((0, number))
            )
            graph.replace(node, "Clip", [relu.input[0], *ends])
        elif (
            node.op_type == "Div" and number == 6 and (clip := graph.made_by(x, "Clip")) is not None
        ):
            added = graph.made_by(clip.input[0], "Add")
            x, shift = graph.split(added) if added is not None else (None, None)
            if shift == 3 and graph.constant(clip.input[2]) == 6:
                graph.replace(node, "HardSigmoid", [x], alpha=1 / 6, beta=0.5)


def _gelus(graph):
    """Exact GELU, written out as in `vision.models.layers.activations.gelu`."""
    for node in graph.nodes:
        if node.op_type != "Mul":
            continue
        for half, rest in (node.input, reversed(node.input)):
            half = graph.made_by(half, "Mul")
            added = graph.made_by(rest, "Add")
            x, number = graph.split(half) if half is not None else (None, None)
            erf, one = graph.split(added) if added is not None else (None, None)
            erf = graph.made_by(erf, "Erf") if erf else None
            scaled = graph.made_by(erf.input[0], "Mul") if erf is not None else None
            if number == 0.5 and one == 1 and scaled is not None:
                same, factor = graph.split(scaled)
                if same == x and abs(factor - ERF) < 1e-6:
                    graph.replace(node, "Gelu", [x])
                    break
