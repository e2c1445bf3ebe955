"""XLA's foreign function interface through ctypes: a Python function as a custom call on a CPU.

The structures are those of jaxlib/include/xla/ffi/api/c_api.h.
"""

import ctypes
import functools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jaxlib

_METADATA = 1  # XLA_FFI_Extension_Metadata
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL
_Pointer = ctypes.c_void_p
_Size = ctypes.c_size_t


class _Extension(ctypes.Structure):
    _fields_ = [("struct_size", _Size), ("type", ctypes.c_int), ("next", _Pointer)]


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("struct_size", _Size),
        ("extension", _Pointer),
        ("dtype", ctypes.c_int),
        ("data", _Pointer),
        ("rank", ctypes.c_int64),
        ("dims", _Pointer),
    ]


class _Buffers(ctypes.Structure):  # XLA_FFI_Args and XLA_FFI_Rets
    _fields_ = [
        ("struct_size", _Size),
        ("extension", _Pointer),
        ("size", ctypes.c_int64),
        ("types", _Pointer),
        ("buffers", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    ]


class _ErrorArguments(ctypes.Structure):
    _fields_ = [
        ("struct_size", _Size),
        ("extension", _Pointer),
        ("message", ctypes.c_char_p),
        ("code", ctypes.c_int),
    ]


class _Version(ctypes.Structure):
    _fields_ = [
        ("struct_size", _Size),
        ("extension", _Pointer),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    ]


class _Api(ctypes.Structure):
    _fields_ = [
        ("struct_size", _Size),
        ("extension", _Pointer),
        ("version", _Version),
        ("internal", _Pointer),
        ("create_error", ctypes.CFUNCTYPE(_Pointer, ctypes.POINTER(_ErrorArguments))),
    ]


class _Frame(ctypes.Structure):  # XLA_FFI_CallFrame
    _fields_ = [
        ("struct_size", _Size),
        ("extension", ctypes.POINTER(_Extension)),
        ("api", ctypes.POINTER(_Api)),
        ("context", _Pointer),
        ("stage", ctypes.c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
    ]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", _Size), ("version", _Version), ("traits", ctypes.c_uint32)]


class _MetadataExtension(ctypes.Structure):
    _fields_ = [("base", _Extension), ("metadata", ctypes.POINTER(_Metadata))]


_Handler = ctypes.CFUNCTYPE(_Pointer, ctypes.POINTER(_Frame))
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [_Pointer, ctypes.c_char_p, _Pointer]

_handlers: dict[str, Any] = {}  # by target: XLA may call one until the process ends


def register(target: str, run: Callable[[Sequence[int], Sequence[int]], None]) -> None:
    """Makes a function callable from compiled programs as the custom call `target`.

    Args:
        target: name of the call, which is registered once and for all.
        run: called with the addresses of the arguments' and the results' buffers, on a thread of
            XLA's, possibly on several at once. An exception becomes the error of the program.
    """

    def handle(frame):
        frame = frame.contents
        try:
            if frame.extension and frame.extension.contents.type == _METADATA:
                _describe(frame)
            else:
                run(_addresses(frame.arguments), _addresses(frame.results))
        except BaseException as error:  # nothing may leave a callback
            return _error(frame, f"{target}: {type(error).__name__}: {error}")
        return None

    handler = _handlers[target] = _Handler(handle)
    capsule = _new_capsule(ctypes.cast(handler, _Pointer), None, None)
    jax.ffi.register_ffi_target(target, capsule, platform="cpu")


def is_registered(target: str) -> bool:
    """Returns whether `register` was called with this name."""
    return target in _handlers


@functools.cache
def api_version() -> tuple[int, int]:
    """Returns (major, minor) of jaxlib's interface; raises `OSError` or `ValueError`."""
    header = pathlib.Path(jaxlib.__file__).parent / "include/xla/ffi/api/c_api.h"
    text = header.read_text()
    numbers = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", text))
    if len(numbers) < 2:
        raise ValueError(f"{header} defines no version")
    return int(numbers["MAJOR"]), int(numbers["MINOR"])


def _addresses(buffers):
    return [buffers.buffers[i].contents.data for i in range(buffers.size)]


def _describe(frame):
    """Answers XLA's question, when a program is loaded, for which version this was written."""
    extension = ctypes.cast(frame.extension, ctypes.POINTER(_MetadataExtension))
    metadata = extension.contents.metadata.contents
    metadata.version.major, metadata.version.minor = api_version()
    metadata.traits = 0


def _error(frame, message):
    arguments = _ErrorArguments(
        struct_size=ctypes.sizeof(_ErrorArguments), message=message.encode(), code=_INTERNAL
    )
    return frame.api.contents.create_error(ctypes.byref(arguments))
