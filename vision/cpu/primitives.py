"""What oneDNN computes for a program: a pass of a convolution, or a matrix product."""

import dataclasses
from collections.abc import Sequence

from vision.cpu import onednn
from vision.cpu.geometry import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, Geometry
from vision.cpu.product import Product

# Constants of dnnl_types.h and dnnl_common_types.h
_FORWARD_TRAINING = 64
_DIRECT = 1
_MULTIPLY, _ADD = 0x1FFF1, 0x1FFF0
_RELU, _SWISH, _CLIP, _HARD_SWISH = 0x20, 0x2C, 0x2E, 0x34
_DIFF_SOURCE, _DIFF_DESTINATION, _DIFF_WEIGHTS = 129, 145, 161
_QUERY_WEIGHTS, _QUERY_DIFF_WEIGHTS = 131, 132

_ARGUMENTS = {
    FORWARD: (onednn.SOURCE, onednn.WEIGHTS, onednn.DESTINATION),
    BACKWARD_DATA: (_DIFF_SOURCE, onednn.WEIGHTS, _DIFF_DESTINATION),
    BACKWARD_WEIGHTS: (onednn.SOURCE, _DIFF_WEIGHTS, _DIFF_DESTINATION),
}

# Each activation's algorithm, alpha and beta.
ACTIVATIONS = {
    "relu": (_RELU, 0.0, 0.0),
    "relu6": (_CLIP, 0.0, 6.0),
    "silu": (_SWISH, 1.0, 0.0),
    "hard_swish": (_HARD_SWISH, 1 / 6, 1 / 2),
}


@dataclasses.dataclass(frozen=True)
class Epilogue:
    """What is done to the outputs of a convolution before they are written, in this order.

    Attributes:
        scale: whether each channel is multiplied by a number.
        shift: whether a number is added to each channel.
        residual: whether an array like the outputs is added.
        activation: one of `ACTIVATIONS`; "" for none.
    """

    scale: bool = False
    shift: bool = False
    residual: bool = False
    activation: str = ""


class Convolution:
    """One pass of a convolution of one geometry.

    Args:
        kind: one of `KINDS`.
        geometry: the shapes.
        epilogue: what follows the forward pass; None for nothing.

    Raises:
        OneDnnError: oneDNN has no such primitive.
    """

    def __init__(self, kind: str, geometry: Geometry, epilogue: Epilogue | None = None):
        library = onednn.load()
        self._kind = kind
        operands, attributes = _attach(epilogue, geometry)
        descriptor, images, weights, outputs = _describe(kind, geometry, attributes)
        query = _QUERY_DIFF_WEIGHTS if kind == BACKWARD_WEIGHTS else _QUERY_WEIGHTS
        chosen = onednn.Pointer(library.dnnl_primitive_desc_query_md(descriptor, query, 0))
        layouts = (images, chosen, outputs)
        self._primitive = onednn.Primitive(
            descriptor, dict(zip(_ARGUMENTS[kind], layouts, strict=True)) | operands
        )
        self._weights_size = library.dnnl_memory_desc_get_size(chosen)
        self._reorder = None
        if not library.dnnl_memory_desc_equal(chosen, weights):
            pair = (chosen, weights) if kind == BACKWARD_WEIGHTS else (weights, chosen)
            self._reorder = _create_reorder(*pair)

    def execute(self, workspace: onednn.Workspace, inputs: Sequence[int], output: int) -> None:
        """Computes the output from the inputs, all given by their addresses.

        The inputs are: forward, images, kernel and what the epilogue adds and multiplies by, in its
        order; backward data, the outputs' gradient and the kernel; backward weights, images and
        the outputs' gradient.
        """
        first, second, *operands = inputs
        if self._kind == FORWARD:
            images, weights, outputs = first, second, output
        elif self._kind == BACKWARD_DATA:
            images, weights, outputs = output, second, first
        else:
            images, weights, outputs = first, output, second
        if self._reorder is None:
            self._primitive.execute(workspace, images, weights, outputs, *operands)
            return
        blocked = workspace.weights.at_least(self._weights_size)
        if self._kind != BACKWARD_WEIGHTS:
            self._reorder.execute(workspace, weights, blocked)
        self._primitive.execute(workspace, images, blocked, outputs, *operands)
        if self._kind == BACKWARD_WEIGHTS:
            self._reorder.execute(workspace, blocked, weights)


def _attach(epilogue, geometry):
    """Returns ({index of an argument: its layout}, the attributes) that make an epilogue."""
    if epilogue is None:
        return {}, onednn.attributes()
    channels = geometry.outputs[-1]
    vector = onednn.strided((1, channels, 1, 1), (channels, 1, channels, channels))
    steps = []
    if epilogue.scale:
        steps.append((_MULTIPLY, vector))
    if epilogue.shift:
        steps.append((_ADD, vector))
    if epilogue.residual:
        steps.append((_ADD, _channels_last(geometry.outputs)))
    operands = {onednn.operand(number): layout for number, (_, layout) in enumerate(steps)}
    activation = ACTIVATIONS.get(epilogue.activation)
    return operands, onednn.attributes_with(steps, activation)


def _describe(kind, geometry, attributes):
    """Returns handles: the primitive's descriptor; layouts of images, weights and outputs."""
    images = _channels_last(geometry.images)
    outputs = _channels_last(geometry.outputs)
    shape, strides = _weights(kind, geometry)
    weights = onednn.strided(shape, strides)
    # oneDNN chooses the layout that it computes fastest with.
    any_weights = onednn.flexible(shape)
    sizes = (
        onednn.numbers(geometry.strides),
        onednn.numbers(d - 1 for d in geometry.dilation),
        onednn.numbers(geometry.padding),
        onednn.numbers(geometry.padding_after()),
    )
    arrays = (images, any_weights, None, outputs)
    forward = onednn.new(
        "convolution_forward_primitive_desc_create",
        *(onednn.engine(), _FORWARD_TRAINING, _DIRECT, *arrays, *sizes, attributes),
    )
    descriptor = forward
    hints = (*sizes, forward, attributes)
    if kind == BACKWARD_DATA:
        descriptor = onednn.new(
            "convolution_backward_data_primitive_desc_create",
            *(onednn.engine(), _DIRECT, images, any_weights, outputs, *hints),
        )
    elif kind == BACKWARD_WEIGHTS:
        descriptor = onednn.new(
            "convolution_backward_weights_primitive_desc_create",
            *(onednn.engine(), _DIRECT, *arrays, *hints),
        )
    return descriptor, images, weights, outputs


def _weights(kind, geometry):
    """Returns the kernel's shape and strides, in the order of oneDNN: groups, out, in, h, w."""
    height, width, size_in, size_out = geometry.kernel
    groups = geometry.groups
    part = size_out // groups
    row = width * size_in * size_out
    if kind == BACKWARD_DATA:  # JAX passes it as (h, w, groups, Cin / groups, Cout / groups)
        strides = (size_in * part, 1, part, row, size_in * size_out)
    else:
        strides = (part, 1, size_out, row, size_in * size_out)
    shape = (groups, part, size_in, height, width)
    if groups == 1:
        return shape[1:], strides[1:]
    return shape, strides


def _create_reorder(before, after):
    """Returns the primitive that copies an array from one layout to another."""
    descriptor = onednn.new(
        "reorder_primitive_desc_create",
        before,
        onednn.engine(),
        after,
        onednn.engine(),
        onednn.attributes(),
    )
    return onednn.Primitive(descriptor, {onednn.SOURCE: before, onednn.DESTINATION: after})


def _channels_last(shape):
    """Returns the layout of images (B, H, W, C) as oneDNN names their axes, B, C, H, W."""
    batch, height, width, channels = shape
    strides = (height * width * channels, 1, width * channels, channels)
    return onednn.strided((batch, channels, height, width), strides)


class MatrixProduct:
    """A product of two arrays, as `vision.cpu.product.recognize` describes it.

    Args:
        product: shapes and strides.

    Raises:
        OneDnnError: oneDNN has no such primitive.
    """

    def __init__(self, product: Product):
        layouts = [onednn.strided(*layout) for layout in product.layouts()]
        first, second, result = layouts
        descriptor = onednn.new(
            "matmul_primitive_desc_create",
            *(onednn.engine(), first, second, None, result, onednn.attributes()),
        )
        indices = (onednn.SOURCE, onednn.WEIGHTS, onednn.DESTINATION)
        self._primitive = onednn.Primitive(descriptor, dict(zip(indices, layouts, strict=True)))

    def execute(self, workspace: onednn.Workspace, inputs: Sequence[int], output: int) -> None:
        """Computes the result from two arrays, all given by their addresses."""
        self._primitive.execute(workspace, *inputs, output)
