"""oneDNN's C library through ctypes: convolutions of float32 arrays in memory.

The library comes from the wheels onednn-cpu-gomp, -iomp or -tbb (Apache-2.0), which contain no
Python. Developer guide and C API: https://uxlfoundation.github.io/oneDNN/v3.2/.
"""

import ctypes
import functools
import importlib.metadata
import os
from collections.abc import Mapping, Sequence

import numpy as np

from vision.cpu.geometry import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, Geometry

WHEELS = ("onednn-cpu-gomp", "onednn-cpu-iomp", "onednn-cpu-tbb")
ALIGNMENT = 64  # bytes

# Constants of dnnl_types.h and dnnl_common_types.h
_FLOAT32 = 3
_ANY_LAYOUT = 1
_CPU = 1
_FORWARD_TRAINING = 64
_DIRECT = 1
_USER_SCRATCHPAD = 1
_DEFAULT_STREAM = 1
_SOURCE, _DESTINATION, _WEIGHTS, _SCRATCHPAD = 1, 17, 33, 80
_DIFF_SOURCE, _DIFF_DESTINATION, _DIFF_WEIGHTS = 129, 145, 161
_QUERY_WEIGHTS, _QUERY_DIFF_WEIGHTS, _QUERY_SCRATCHPAD = 131, 132, 136

_Pointer = ctypes.c_void_p
_ARGUMENTS = {
    FORWARD: (_SOURCE, _WEIGHTS, _DESTINATION),
    BACKWARD_DATA: (_DIFF_SOURCE, _WEIGHTS, _DIFF_DESTINATION),
    BACKWARD_WEIGHTS: (_SOURCE, _DIFF_WEIGHTS, _DIFF_DESTINATION),
}


class OneDnnError(RuntimeError):
    """A call of oneDNN failed; says which one and its status."""


class _Argument(ctypes.Structure):
    _fields_ = [("index", ctypes.c_int), ("memory", _Pointer)]


@functools.cache
def load() -> ctypes.CDLL:
    """Loads the library of the first wheel that is installed.

    Raises:
        OSError: no wheel is installed, or the library cannot be loaded.
    """
    # Read by the OpenMP runtime when it is loaded: idle threads must not spin beside XLA's.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    library = ctypes.CDLL(_path())
    library.dnnl_primitive_desc_query_md.restype = _Pointer
    library.dnnl_primitive_desc_query_md.argtypes = [_Pointer, ctypes.c_int, ctypes.c_int]
    library.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
    library.dnnl_memory_desc_get_size.argtypes = [_Pointer]
    library.dnnl_memory_desc_equal.argtypes = [_Pointer, _Pointer]
    library.dnnl_memory_set_data_handle.argtypes = [_Pointer, _Pointer]
    library.dnnl_primitive_execute.argtypes = [_Pointer, _Pointer, ctypes.c_int, _Pointer]
    library.dnnl_stream_wait.argtypes = [_Pointer]
    return library


def _path():
    for wheel in WHEELS:
        try:
            files = importlib.metadata.files(wheel) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:  # they are not in site-packages, but in lib/ of the environment
            if file.name == "libdnnl.so.3":
                return str(file.locate())
    raise OSError(f"{WHEELS[0]} is not installed")


def _check(name, status):
    if status:
        raise OneDnnError(f"{name} of oneDNN returned status {status}")


def _new(name, *arguments):
    """Returns the handle that `dnnl_NAME` creates."""
    handle = _Pointer()
    _check(name, getattr(load(), f"dnnl_{name}")(ctypes.byref(handle), *arguments))
    return handle


def _numbers(values):
    return (ctypes.c_int64 * 12)(*values)


@functools.cache
def _engine():
    return _new("engine_create", _CPU, ctypes.c_size_t(0))


@functools.cache
def _attributes():
    """Returns the attributes of every primitive: it works in memory that the caller gives.

    One primitive may be executed by two threads at once, which must not share such memory.
    """
    attributes = _new("primitive_attr_create")
    load().dnnl_primitive_attr_set_scratchpad_mode(attributes, _USER_SCRATCHPAD)
    return attributes


def _strided(shape, strides):
    dims = _numbers(shape)
    steps = _numbers(strides)
    return _new("memory_desc_create_with_strides", len(shape), dims, _FLOAT32, steps)


def _channels_last(shape):
    batch, height, width, channels = shape
    strides = (height * width * channels, 1, width * channels, channels)
    return _strided((batch, channels, height, width), strides)


class Buffer:
    """Memory that grows with what is asked of it."""

    def __init__(self):
        self._array = np.empty(0, np.uint8)

    def at_least(self, size: int) -> int:
        """Returns the aligned address of at least `size` bytes, whose content may be lost."""
        if len(self._array) < size + ALIGNMENT:
            self._array = np.empty(size + ALIGNMENT, np.uint8)
        return -(-self._array.ctypes.data // ALIGNMENT) * ALIGNMENT


class Workspace:
    """What one thread needs to execute primitives: a stream, and memory that all of them share."""

    def __init__(self):
        self.stream = _new("stream_create", _engine(), _DEFAULT_STREAM)
        self.arguments = {}  # {Primitive: its memory objects}
        self.weights = Buffer()
        self.scratchpad = Buffer()


class Primitive:
    """A oneDNN primitive, with the layout of each of its arguments.

    Args:
        descriptor: handle of its primitive descriptor.
        layouts: {index of the argument: handle of its memory descriptor}.
    """

    def __init__(self, descriptor: ctypes.c_void_p, layouts: Mapping[int, ctypes.c_void_p]):
        library = load()
        self._primitive = _new("primitive_create", descriptor)
        self._layouts = dict(layouts)
        scratchpad = library.dnnl_primitive_desc_query_md(descriptor, _QUERY_SCRATCHPAD, 0)
        self._scratchpad_size = library.dnnl_memory_desc_get_size(scratchpad) if scratchpad else 0
        if self._scratchpad_size:
            self._layouts[_SCRATCHPAD] = _Pointer(scratchpad)

    def execute(self, workspace: Workspace, *addresses: int) -> None:
        """Executes it on arrays at these addresses, in the order of `layouts`."""
        library = load()
        if self not in workspace.arguments:
            workspace.arguments[self] = self._create_arguments()
        memories, array = workspace.arguments[self]
        if self._scratchpad_size:
            addresses += (workspace.scratchpad.at_least(self._scratchpad_size),)
        for memory, address in zip(memories, addresses, strict=True):
            library.dnnl_memory_set_data_handle(memory, address)
        status = library.dnnl_primitive_execute(
            self._primitive, workspace.stream, len(memories), array
        ) or library.dnnl_stream_wait(workspace.stream)
        _check("primitive_execute", status)

    def _create_arguments(self):
        memories = {
            index: _new("memory_create", layout, _engine(), _Pointer(0))
            for index, layout in self._layouts.items()
        }
        array = (_Argument * len(memories))(*(_Argument(*item) for item in memories.items()))
        return list(memories.values()), array


class Convolution:
    """One pass of a convolution of one geometry.

    Args:
        kind: one of `KINDS`.
        geometry: the shapes.

    Raises:
        OneDnnError: oneDNN has no such primitive.
    """

    def __init__(self, kind: str, geometry: Geometry):
        library = load()
        self._kind = kind
        descriptor, images, weights, outputs = _describe(kind, geometry)
        query = _QUERY_DIFF_WEIGHTS if kind == BACKWARD_WEIGHTS else _QUERY_WEIGHTS
        chosen = _Pointer(library.dnnl_primitive_desc_query_md(descriptor, query, 0))
        layouts = (images, chosen, outputs)
        self._primitive = Primitive(descriptor, dict(zip(_ARGUMENTS[kind], layouts, strict=True)))
        self._weights_size = library.dnnl_memory_desc_get_size(chosen)
        self._reorder = None
        if not library.dnnl_memory_desc_equal(chosen, weights):
            pair = (chosen, weights) if kind == BACKWARD_WEIGHTS else (weights, chosen)
            self._reorder = _create_reorder(*pair)

    def execute(self, workspace: Workspace, inputs: Sequence[int], output: int) -> None:
        """Computes the output from the inputs, all given by their addresses.

        The inputs are: forward, images and kernel; backward data, the outputs' gradient and the
        kernel; backward weights, images and the outputs' gradient.
        """
        first, second = inputs
        if self._kind == FORWARD:
            images, weights, outputs = first, second, output
        elif self._kind == BACKWARD_DATA:
            images, weights, outputs = output, second, first
        else:
            images, weights, outputs = first, output, second
        if self._reorder is None:
            self._primitive.execute(workspace, images, weights, outputs)
            return
        blocked = workspace.weights.at_least(self._weights_size)
        if self._kind != BACKWARD_WEIGHTS:
            self._reorder.execute(workspace, weights, blocked)
        self._primitive.execute(workspace, images, blocked, outputs)
        if self._kind == BACKWARD_WEIGHTS:
            self._reorder.execute(workspace, blocked, weights)


def _describe(kind, geometry):
    """Returns handles: the primitive's descriptor; layouts of images, weights and outputs."""
    images = _channels_last(geometry.images)
    outputs = _channels_last(geometry.outputs)
    shape, strides = _weights(kind, geometry)
    weights = _strided(shape, strides)
    # oneDNN chooses the layout that it computes fastest with.
    any_weights = _new(
        "memory_desc_create_with_tag", len(shape), _numbers(shape), _FLOAT32, _ANY_LAYOUT
    )
    sizes = (
        _numbers(geometry.strides),
        _numbers(d - 1 for d in geometry.dilation),
        _numbers(geometry.padding),
        _numbers(geometry.padding_after()),
    )
    arrays = (images, any_weights, None, outputs)
    forward = _new(
        "convolution_forward_primitive_desc_create",
        *(_engine(), _FORWARD_TRAINING, _DIRECT, *arrays, *sizes, _attributes()),
    )
    descriptor = forward
    if kind == BACKWARD_DATA:
        descriptor = _new(
            "convolution_backward_data_primitive_desc_create",
            *(_engine(), _DIRECT, images, any_weights, outputs, *sizes, forward, _attributes()),
        )
    elif kind == BACKWARD_WEIGHTS:
        descriptor = _new(
            "convolution_backward_weights_primitive_desc_create",
            *(_engine(), _DIRECT, *arrays, *sizes, forward, _attributes()),
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
    descriptor = _new(
        "reorder_primitive_desc_create", before, _engine(), after, _engine(), _attributes()
    )
    return Primitive(descriptor, {_SOURCE: before, _DESTINATION: after})
