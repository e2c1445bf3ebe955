"""Reads PyTorch's .pth files without PyTorch, and without running any code that they contain.

A .pth file is a pickle, which may call any function. Here a restricted unpickler allows tensors,
the containers around them and nothing else, as `torch.load(..., weights_only=True)` does. Both
layouts are read: the zip archive of PyTorch 1.6 and later, and the one before it.
"""

import collections
import dataclasses
import io
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from vision.errors import UserError

LARGEST_PICKLE = 2**28  # bytes; it holds only names and shapes, but may be compressed
MAGIC = 0x1950A86A20F9469CFC6C  # the first number of the older layout
STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Keys under which trainers' checkpoints store the weights.
INSIDE = ("state_dict_ema", "model_ema", "state_dict", "model", "net")


def read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns {name: array} of a .pth, .pt or .bin file: a state dict, or a checkpoint with one.

    bfloat16 arrays are `ml_dtypes.bfloat16`.

    Raises:
        UserError: the file is cut short or damaged, or holds anything except tensors, or no tensors
            by name.
    """
    try:
        with open(path, "rb") as file:
            is_zip = zipfile.is_zipfile(file)
            file.seek(0)
            content = _read_zip(file) if is_zip else _read_old(file)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Forbidden as error:
        raise UserError(
            f"{path} holds {error}, not only tensors, and was not loaded: "
            "a .pth file may run any code.\n"
            "If you trust it, save only its state dict with torch.save(net.state_dict(), ...), "
            "or as .safetensors"
        ) from error
    except Exception as error:  # a damaged pickle or archive raises all sorts
        raise UserError(
            f"{path} is not a complete PyTorch file ({type(error).__name__}): fetch it again"
        ) from error
    return _named_arrays(content, path)


class Forbidden(Exception):
    """A pickle contains an object that is not a tensor; the message names it."""


@dataclasses.dataclass
class _Tensor:
    """A view of a storage, whose bytes may follow later in the file."""

    storage: tuple[str, Any]  # (key, dtype)
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, storages: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the tensor as an array.

        Args:
            storages: {key: 1-D array of the storage}.

        Raises:
            ValueError: the view reaches beyond its storage.
        """
        storage = storages[self.storage[0]]
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(
            isinstance(n, int) and n >= 0 for n in numbers
        ):
            raise ValueError("a tensor's shape")
        size = int(np.prod(self.shape, dtype=object))
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        # A view with more numbers than its storage would expand without bound.
        if size > len(storage) or (size and last >= len(storage)):
            raise ValueError("a tensor beyond its storage")
        if not size:
            return np.zeros(self.shape, storage.dtype)
        strides = tuple(s * storage.itemsize for s in self.strides)
        view = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides)
        return view.copy()


def _rebuild_tensor(storage, offset, shape, strides, *_):
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
    return tensor


ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    """Builds only tensors and containers; records the storages that they need.

    Attributes:
        storages: {key: (dtype, count of numbers)}.
    """

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.storages = {}

    def find_class(self, module, name):
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise Forbidden(f"{module}.{name}")

    def persistent_load(self, pid):
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or dtype not in STORAGES.values() or (view and view[0] is not None):
            raise Forbidden(f"a persistent object {kind!r}")
        self.storages[str(key)] = dtype, count
        return str(key), dtype


def _read_zip(file):
    with zipfile.ZipFile(file) as archive:
        members = archive.namelist()
        name = next(n for n in members if n.endswith("/data.pkl") or n == "data.pkl")
        folder = name.removesuffix("data.pkl")
        byteorder = f"{folder}byteorder"
        if byteorder in members and archive.read(byteorder) != b"little":
            raise ValueError("big-endian numbers")
        if archive.getinfo(name).file_size > LARGEST_PICKLE:
            raise ValueError("a pickle of that size")
        unpickler = _Unpickler(io.BytesIO(archive.read(name)))
        content = unpickler.load()
        storages = {}
        for key, (dtype, count) in unpickler.storages.items():
            member = f"{folder}data/{key}"
            if archive.getinfo(member).file_size != count * np.dtype(dtype).itemsize:
                raise ValueError("a storage's size")
            storages[key] = np.frombuffer(archive.read(member), dtype)
    return _resolve(content, storages)


def _read_old(file):
    if _Unpickler(file).load() != MAGIC:
        raise UserError(
            f"{file.name} is not a PyTorch file: use .pth, .pt or .bin for one, "
            ".safetensors or .npz for others"
        )
    _Unpickler(file).load()  # the protocol's version
    if not _Unpickler(file).load()["little_endian"]:
        raise ValueError("big-endian numbers")
    unpickler = _Unpickler(file)
    content = unpickler.load()
    storages = {}
    for key in _Unpickler(file).load():
        dtype, count = unpickler.storages[str(key)]
        if int.from_bytes(file.read(8), "little") != count:
            raise ValueError("a storage's size")
        storage = np.frombuffer(file.read(count * np.dtype(dtype).itemsize), dtype)
        if len(storage) != count:
            raise EOFError
        storages[str(key)] = storage
    return _resolve(content, storages)


def _resolve(content, storages):
    """Returns an unpickled object with arrays in place of its tensors."""
    if isinstance(content, _Tensor):
        return content.array(storages)
    if isinstance(content, dict):
        return {key: _resolve(value, storages) for key, value in content.items()}
    return content


def _named_arrays(content, path):
    """Returns {name: array} of a state dict, or of the one inside a checkpoint."""
    if not isinstance(content, dict):
        content = {}
    state_dict = next((content[k] for k in INSIDE if isinstance(content.get(k), dict)), content)
    arrays = {str(k): v for k, v in state_dict.items() if isinstance(v, np.ndarray)}
    if not arrays:
        raise UserError(f"{path} holds no tensors by name: give a state dict")
    return arrays
