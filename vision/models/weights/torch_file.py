"""Reads PyTorch's .pth files without PyTorch, and without running anything that they hold.

A .pth file is a pickle, which may call any function. Here an unpickler stands in its way that knows
tensors, the containers around them and nothing else, as `torch.load(..., weights_only=True)` does.
Both layouts are read: the zip archive of PyTorch 1.6 and later, and what came before it.
"""

import collections
import dataclasses
import io
import pickle
import zipfile

import ml_dtypes
import numpy as np

from vision.errors import UserError

LARGEST_PICKLE = 2**28  # bytes; it holds names and shapes only, but may be packed
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
# where checkpoints of trainers keep the weights
INSIDE = ("state_dict_ema", "model_ema", "state_dict", "model", "net")


def read_torch(path):
    """Returns {name: array} of a .pth, .pt or .bin file: a state dict, or a checkpoint that holds
    one.

    bfloat16 arrays are `ml_dtypes.bfloat16`.

    Raises:
        UserError: it is cut short or damaged, holds anything but tensors, or no tensors by name.
    """
    try:
        with open(path, "rb") as file:
            zipped = zipfile.is_zipfile(file)
            file.seek(0)
            found = _read_zip(file) if zipped else _read_old(file)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Forbidden as error:
        raise UserError(
            f"{path} holds {error}, not only tensors, and was not loaded: a .pth file may run any code.\n"
            "If you trust it, save its state dict alone with torch.save(net.state_dict(), ...), or as .safetensors"
        ) from error
    except Exception as error:  # a damaged pickle or archive raises all sorts
        raise UserError(
            f"{path} is no whole PyTorch file ({type(error).__name__}): fetch it again"
        ) from error
    return _arrays(found, path)


class Forbidden(Exception):
    """A pickle asks for what is no tensor; the message names it."""


@dataclasses.dataclass
class _Tensor:
    """A view of a storage, whose bytes may be read later only."""

    storage: tuple  # (key, dtype)
    offset: int
    shape: tuple
    strides: tuple

    def array(self, storages):
        """Returns its array, from {key: array of the storage}; raises ValueError where it reaches
        beyond that."""
        whole = storages[self.storage[0]]
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(
            isinstance(n, int) and n >= 0 for n in numbers
        ):
            raise ValueError("a tensor's shape")
        size = int(np.prod(self.shape, dtype=object))
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        # more numbers than there are would be made of nothing
        if size > len(whole) or (size and last >= len(whole)):
            raise ValueError("a tensor beyond its storage")
        if not size:
            return np.zeros(self.shape, whole.dtype)
        strides = tuple(s * whole.itemsize for s in self.strides)
        return np.lib.stride_tricks.as_strided(whole[self.offset :], self.shape, strides).copy()


def _rebuild_tensor(storage, offset, shape, strides, *_):
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
    return tensor


KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    """Builds tensors and containers only; notes the storages that they need.

    Attributes:
        wanted: {key: (dtype, numbers)}.
    """

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.wanted = {}

    def find_class(self, module, name):
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise Forbidden(f"{module}.{name}")

    def persistent_load(self, pid):
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or dtype not in STORAGES.values() or (view and view[0] is not None):
            raise Forbidden(f"a persistent object {kind!r}")
        self.wanted[str(key)] = dtype, count
        return str(key), dtype


def _read_zip(file):
    with zipfile.ZipFile(file) as archive:
        name = next(n for n in archive.namelist() if n.endswith("/data.pkl") or n == "data.pkl")
        folder = name.removesuffix("data.pkl")
        if (
            f"{folder}byteorder" in archive.namelist()
            and archive.read(f"{folder}byteorder") != b"little"
        ):
            raise ValueError("big-endian numbers")
        if archive.getinfo(name).file_size > LARGEST_PICKLE:
            raise ValueError("a pickle of that size")
        unpickler = _Unpickler(io.BytesIO(archive.read(name)))
        found = unpickler.load()
        storages = {}
        for key, (dtype, count) in unpickler.wanted.items():
            if archive.getinfo(f"{folder}data/{key}").file_size != count * np.dtype(dtype).itemsize:
                raise ValueError("a storage's size")
            storages[key] = np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)
    return _resolve(found, storages)


def _read_old(file):
    if _Unpickler(file).load() != MAGIC:
        raise UserError(
            f"{file.name} is no PyTorch file: .pth, .pt and .bin are read, .safetensors and .npz"
        )
    _Unpickler(file).load()  # the protocol's version
    if not _Unpickler(file).load()["little_endian"]:
        raise ValueError("big-endian numbers")
    unpickler = _Unpickler(file)
    found = unpickler.load()
    storages = {}
    for key in _Unpickler(file).load():
        dtype, count = unpickler.wanted[str(key)]
        if int.from_bytes(file.read(8), "little") != count:
            raise ValueError("a storage's size")
        data = file.read(count * np.dtype(dtype).itemsize)
        storages[str(key)] = np.frombuffer(data, dtype)
        if len(storages[str(key)]) != count:
            raise EOFError
    return _resolve(found, storages)


def _resolve(found, storages):
    if isinstance(found, _Tensor):
        return found.array(storages)
    if isinstance(found, dict):
        return {key: _resolve(value, storages) for key, value in found.items()}
    return found


def _arrays(found, path):
    for key in INSIDE:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    arrays = (
        {k: v for k, v in found.items() if isinstance(v, np.ndarray)}
        if isinstance(found, dict)
        else {}
    )
    if not arrays:
        raise UserError(f"{path} holds no tensors by name: give a state dict")
    return {str(k): v for k, v in arrays.items()}
