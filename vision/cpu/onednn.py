"""oneDNN's C library through ctypes.

It comes from the wheel onednn-cpu-gomp (Apache-2.0), which contains no Python; its siblings -iomp
and -tbb need libraries of Intel's compiler, which they do not bring. Developer guide and C API:
https://uxlfoundation.github.io/oneDNN/v3.2/.
"""

import ctypes
import functools
import importlib.metadata
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

WHEEL = "onednn-cpu-gomp"
ALIGNMENT = 64  # bytes

# Constants of dnnl_types.h and dnnl_common_types.h
_FLOAT32 = 3
_ANY_LAYOUT = 1
SOURCE, DESTINATION, WEIGHTS = 1, 17, 33
_SCRATCHPAD = 80
_SECOND_SOURCE = 2
_POST_OPERATION = 32768  # times the number of the operation, from 1
_CPU = 1
_USER_SCRATCHPAD = 1
_DEFAULT_STREAM = 1
_QUERY_IMPLEMENTATION, _QUERY_SCRATCHPAD = 8, 136

Pointer = ctypes.c_void_p


class OneDnnError(RuntimeError):
    """A call of oneDNN failed; says which one and its status."""


class _Argument(ctypes.Structure):
    _fields_ = [("index", ctypes.c_int), ("memory", Pointer)]


@functools.cache
def load() -> ctypes.CDLL:
    """Loads the library.

    Raises:
        OSError: its wheel is not installed, or the library cannot be loaded.
    """
    # Read by the OpenMP runtime when it is loaded: idle threads must not spin beside XLA's.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    library = ctypes.CDLL(_path())
    library.dnnl_primitive_desc_query.argtypes = [Pointer, ctypes.c_int, ctypes.c_int, Pointer]
    library.dnnl_primitive_desc_query_md.restype = Pointer
    library.dnnl_primitive_desc_query_md.argtypes = [Pointer, ctypes.c_int, ctypes.c_int]
    library.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
    library.dnnl_memory_desc_get_size.argtypes = [Pointer]
    library.dnnl_memory_desc_equal.argtypes = [Pointer, Pointer]
    library.dnnl_primitive_execute.argtypes = [Pointer, Pointer, ctypes.c_int, Pointer]
    library.dnnl_primitive_attr_set_post_ops.argtypes = [Pointer, Pointer]
    library.dnnl_post_ops_append_binary.argtypes = [Pointer, ctypes.c_int, Pointer]
    eltwise = library.dnnl_post_ops_append_eltwise
    eltwise.argtypes = [Pointer, ctypes.c_int, ctypes.c_float, ctypes.c_float]
    return library


@functools.cache
def load_keeping() -> ctypes.PyDLL:
    """Returns the same library with calls that keep the interpreter.

    For those that take less than a microsecond: a thread that lets the interpreter go may wait for
    another one, up to `vision.cpu.choice.SWITCH_INTERVAL`, until it has it again.
    """
    library = ctypes.PyDLL(load()._name)
    library.dnnl_memory_set_data_handle.argtypes = [Pointer, Pointer]
    library.dnnl_stream_wait.argtypes = [Pointer]
    return library


def _path():
    """Returns the library's path: it is not in site-packages, but in lib/ of the environment."""
    try:
        files = importlib.metadata.files(WHEEL) or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    for file in files:
        if file.name == "libdnnl.so.3":
            return str(file.locate())
    raise OSError(f"{WHEEL} is not installed")


def _check(name, status):
    if status:
        raise OneDnnError(f"{name} of oneDNN returned status {status}")


def new(name: str, *arguments: Any) -> ctypes.c_void_p:
    """Returns the handle that `dnnl_NAME` creates; raises `OneDnnError`."""
    handle = Pointer()
    _check(name, getattr(load(), f"dnnl_{name}")(ctypes.byref(handle), *arguments))
    return handle


def numbers(values: Iterable[int]) -> ctypes.Array:
    """Returns sizes or strides as oneDNN takes them."""
    return (ctypes.c_int64 * 12)(*values)


@functools.cache
def engine() -> ctypes.c_void_p:
    """Returns the handle of the CPU."""
    return new("engine_create", _CPU, ctypes.c_size_t(0))


@functools.cache
def attributes() -> ctypes.c_void_p:
    """Returns the attributes of a primitive whose result is written as it is."""
    return attributes_with((), None)


def attributes_with(
    binary: Iterable[tuple[int, ctypes.c_void_p]], eltwise: tuple[int, float, float] | None
) -> ctypes.c_void_p:
    """Returns attributes with operations on a primitive's result, before it is written.

    It works in memory that the caller gives: one primitive may be executed by two threads at once,
    which must not share such memory.

    Args:
        binary: (algorithm, layout of the second array) of each; `operand` is its argument.
        eltwise: (algorithm, alpha, beta) of the last one, which has no second array; or None.
    """
    handle = new("primitive_attr_create")
    library = load()
    library.dnnl_primitive_attr_set_scratchpad_mode(handle, _USER_SCRATCHPAD)
    operations = new("post_ops_create")
    for step in binary:
        _check("post_ops_append_binary", library.dnnl_post_ops_append_binary(operations, *step))
    if eltwise is not None:
        status = library.dnnl_post_ops_append_eltwise(operations, *eltwise)
        _check("post_ops_append_eltwise", status)
    status = library.dnnl_primitive_attr_set_post_ops(handle, operations)
    _check("primitive_attr_set_post_ops", status)
    return handle


def operand(number: int) -> int:
    """Returns the index of the argument of the binary operation with this number, from 0."""
    return _POST_OPERATION * (number + 1) | _SECOND_SOURCE


def strided(shape: Sequence[int], strides: Sequence[int]) -> ctypes.c_void_p:
    """Returns the layout of a float32 array with these strides, in elements."""
    dims = numbers(shape)
    steps = numbers(strides)
    return new("memory_desc_create_with_strides", len(shape), dims, _FLOAT32, steps)


def flexible(shape: Sequence[int]) -> ctypes.c_void_p:
    """Returns the layout of a float32 array that oneDNN may choose."""
    dims = numbers(shape)
    return new("memory_desc_create_with_tag", len(shape), dims, _FLOAT32, _ANY_LAYOUT)


class Buffer:
    """Memory that grows with what is asked of it."""

    def __init__(self):
        self._array = np.empty(0, np.uint8)
        self._address = 0

    def at_least(self, size: int) -> int:
        """Returns the aligned address of at least `size` bytes, whose content may be lost."""
        if len(self._array) < size + ALIGNMENT:
            self._array = np.empty(size + ALIGNMENT, np.uint8)
            self._address = -(-self._array.ctypes.data // ALIGNMENT) * ALIGNMENT
        return self._address


class Workspace:
    """What one thread needs to execute primitives: a stream, and memory that all of them share."""

    def __init__(self):
        self.stream = new("stream_create", engine(), _DEFAULT_STREAM)
        self.arguments = {}  # {Primitive: its memory objects}
        self.weights = Buffer()
        self.scratchpad = Buffer()


class Primitive:
    """A oneDNN primitive, with the layout of each of its arguments.

    Args:
        descriptor: handle of its primitive descriptor.
        layouts: {index of the argument: handle of its memory descriptor}.

    Raises:
        OneDnnError: oneDNN has only its reference for it, which is a loop over single numbers.
    """

    def __init__(self, descriptor: ctypes.c_void_p, layouts: Mapping[int, ctypes.c_void_p]):
        library = load()
        name = ctypes.c_char_p()
        library.dnnl_primitive_desc_query(descriptor, _QUERY_IMPLEMENTATION, 0, ctypes.byref(name))
        if (name.value or b"ref").startswith(b"ref"):
            raise OneDnnError("oneDNN has no fast implementation of it")
        self._primitive = new("primitive_create", descriptor)
        self._layouts = dict(layouts)
        scratchpad = library.dnnl_primitive_desc_query_md(descriptor, _QUERY_SCRATCHPAD, 0)
        self._scratchpad_size = library.dnnl_memory_desc_get_size(scratchpad) if scratchpad else 0
        if self._scratchpad_size:
            self._layouts[_SCRATCHPAD] = Pointer(scratchpad)

    def execute(self, workspace: Workspace, *addresses: int) -> None:
        """Executes it on arrays at these addresses, in the order of `layouts`."""
        arguments = workspace.arguments.get(self)
        if arguments is None:
            arguments = workspace.arguments[self] = self._create_arguments()
        memories, array = arguments
        if self._scratchpad_size:
            addresses += (workspace.scratchpad.at_least(self._scratchpad_size),)
        keeping = load_keeping()
        for memory, address in zip(memories, addresses, strict=True):
            keeping.dnnl_memory_set_data_handle(memory, address)
        status = load().dnnl_primitive_execute(
            self._primitive, workspace.stream, len(memories), array
        ) or keeping.dnnl_stream_wait(workspace.stream)
        _check("primitive_execute", status)

    def _create_arguments(self):
        memories = {
            index: new("memory_create", layout, engine(), Pointer(0))
            for index, layout in self._layouts.items()
        }
        array = (_Argument * len(memories))(*(_Argument(*item) for item in memories.items()))
        return list(memories.values()), array
