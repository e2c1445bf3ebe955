"""Reads PyTorch's files without PyTorch, and without running any code that they contain.

Such a file is a pickle, which may call any function; `vision.models.weights.inert_pickle` records
the calls and makes none. Tensors, and the containers and modules around them, are understood here;
all else that a trainer stored beside them, such as its arguments, stays unread. Both layouts are
read: the zip archive of PyTorch 1.6 and later, which TorchScript shares, and the one before it.
"""

import dataclasses
import io
import pathlib
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from vision.errors import UserError, brief
from vision.models.weights.inert_pickle import Named, Object, load

LARGEST_PICKLE = 2**28  # bytes; it holds only names and shapes, but may be compressed
LARGEST_EXPANSION = 20  # of a compressed archive: random numbers hardly shrink
MAGIC = 0x1950A86A20F9469CFC6C  # the first number of the older layout
MOST_NODES = 2 * 10**5
MOST_DEPTH = 64
DTYPES = {  # PyTorch's names of a storage's class and of a dtype
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
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
}
OTHER_SIZES = {"ComplexFloatStorage": 8, "ComplexDoubleStorage": 16, "QInt8Storage": 1}
OTHER_SIZES |= {"QUInt8Storage": 1, "QInt32Storage": 4, "UntypedStorage": 1}
REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
UNREADABLE = {
    "_rebuild_qtensor": "quantized",
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
}
WRAPPERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
# An optimizer's tensors are as large as the weights, and are none.
BESIDE = re.compile(r"(^|_)optim(izer)?s?(_|$)", re.IGNORECASE)
# Nothing here is ever called, but who names these in a file of weights means harm.
HARMFUL = re.compile(
    r"(os|nt|posix|sys|subprocess|commands|shutil|socket|importlib|runpy|pty|ctypes|code|pdb"
    r"|timeit|bdb|webbrowser|asyncio|multiprocessing|signal|urllib2?|http|httplib|requests)(\..*)?"
)
HARMFUL_BUILTINS = ("eval", "exec", "execfile", "compile", "open", "__import__", "breakpoint")


def read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns {name: array} of a .pth, .pt, .ckpt or .bin file.

    A name is the path to the tensor: in a checkpoint {"model": {"conv.weight": ...}} it is
    "model.conv.weight". The optimizer's tensors are left out. bfloat16 arrays are
    `ml_dtypes.bfloat16`. An array may be a view of numbers that it shares with others.

    Raises:
        UserError: the file is cut short or damaged, names a harmful function, or holds no tensors
            by name, or one of a dtype that is not read.
    """
    try:
        with open(path, "rb") as file:
            is_zip = zipfile.is_zipfile(file)
            file.seek(0)
            arrays = _read_zip(file) if is_zip else _read_old(file)
    except UserError:
        raise
    except _Unsupported as error:
        raise UserError(
            f"{path} has tensors of an unsupported kind ({error}): "
            "save them as float32, float16 or bfloat16"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {brief(error)}") from error
    except Exception as error:  # a damaged pickle or archive raises all sorts
        raise UserError(
            f"{path} is not a complete PyTorch file ({type(error).__name__}): fetch it again"
        ) from error
    if not arrays:
        raise UserError(
            f"{path} has no named tensors: give a state dict, "
            "as torch.save(net.state_dict(), ...) writes it"
        )
    return arrays


class _Unsupported(Exception):
    """A tensor's dtype or layout is not read; the message names it."""


@dataclasses.dataclass
class _Tensor:
    """A view of a storage, whose bytes may follow later in the file.

    Attributes:
        key: the storage's name in the file.
        count: of the numbers in the storage.
        offset, shape, strides: of the view, in numbers.
    """

    key: str
    dtype: np.dtype
    count: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the storage."""
        return self.count * self.dtype.itemsize

    def array(self, storage: np.ndarray) -> np.ndarray:
        """Returns the tensor as a view of its storage, a 1-D array.

        Raises:
            ValueError: the view reaches beyond its storage.
        """
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
        return np.lib.stride_tricks.as_strided(
            storage[self.offset :], self.shape, strides, writeable=False
        )


def _read_zip(file):
    with zipfile.ZipFile(file) as archive:
        members = archive.namelist()
        name = next((n for n in members if n.endswith("/data.pkl") or n == "data.pkl"), None)
        if name is None:
            raise UserError(f"{file.name} is a zip archive, but not one that torch.save wrote")
        folder = name.removesuffix("data.pkl")
        byteorder = f"{folder}byteorder"
        if byteorder in members and archive.open(byteorder).read(9) != b"little":
            raise ValueError("big-endian numbers")
        if archive.getinfo(name).file_size > LARGEST_PICKLE:
            raise ValueError("a pickle of that size")
        tensors = dict(_tensors(_load(io.BytesIO(archive.read(name)), file.name).content))
        sizes = {tensor.key: tensor.nbytes for tensor in tensors.values()}
        if sum(sizes.values()) > LARGEST_EXPANSION * file.seek(0, io.SEEK_END):
            raise ValueError("an archive that expands so far")
        storages = {}
        for key, size in sizes.items():
            member = f"{folder}data/{key}"
            if archive.getinfo(member).file_size != size:
                raise ValueError("a storage's size")
            storages[key] = archive.read(member)
    return _arrays(tensors, storages)


def _read_old(file):
    if _load(file, file.name).content != MAGIC:
        raise UserError(
            f"{file.name} is a pickle, but not a PyTorch file: "
            "save its arrays with torch.save, or as .safetensors"
        )
    _load(file, file.name)  # the protocol's version
    if not _load(file, file.name).content["little_endian"]:
        raise ValueError("big-endian numbers")
    saved = _load(file, file.name)
    tensors = dict(_tensors(saved.content))
    sizes = {tensor.key: tensor.nbytes for tensor in tensors.values()}
    widths = {str(pid[2]): _item_size(pid[1].name) for pid in saved.persistent if _is_storage(pid)}
    storages = {}
    for key in map(str, _load(file, file.name).content):
        size = int.from_bytes(file.read(8), "little") * widths[key]
        if key not in sizes:
            file.seek(size, io.SEEK_CUR)
            continue
        if size != sizes[key]:
            raise ValueError("a storage's size")
        storages[key] = file.read(size)
        if len(storages[key]) != size:
            raise EOFError
    return _arrays(tensors, storages)


def _arrays(tensors, storages):
    """Returns {name: array}, if the tensors do not repeat their storages many times over."""
    arrays = {
        name: tensor.array(np.frombuffer(storages[tensor.key], tensor.dtype))
        for name, tensor in tensors.items()
    }
    stored = sum(map(len, storages.values()))
    if sum(array.nbytes for array in arrays.values()) > LARGEST_EXPANSION * stored:
        raise ValueError("tensors that expand so far")
    return arrays


def _load(stream, path):
    """Returns the next `Pickle` of a stream, if nothing harmful is in it."""
    pickle = load(stream)
    for named in pickle.names:
        is_builtin = named.module in ("builtins", "__builtin__")
        if (is_builtin and named.name in HARMFUL_BUILTINS) or HARMFUL.fullmatch(named.module):
            raise UserError(
                f"{path} contains {str(named)[:80]!r}, not only tensors, and was not loaded: "
                "such a file can run any code.\nIf you trust it, save only its state dict with "
                "torch.save(net.state_dict(), ...), or as .safetensors"
            )
    return pickle


def _tensors(content: Any) -> Iterator[tuple[str, _Tensor]]:
    """Yields (path, tensor) for each tensor below an object, except those of optimizers."""
    nodes: list[tuple[tuple[str, ...], Any]] = [((), content)]
    count = 0
    while nodes:
        path, node = nodes.pop()
        count += 1
        if count > MOST_NODES:
            raise ValueError("a checkpoint of that many parts")
        if isinstance(node, Object) and _name(node) in (*REBUILD, *UNREADABLE):
            yield ".".join(path), _tensor(node)
        elif len(path) < MOST_DEPTH:
            children = [
                ((*path, str(key)), _unwrapped(child))
                for key, child in _children(node)
                if isinstance(child, (dict, list, tuple, Object)) and not BESIDE.search(str(key))
            ]
            nodes.extend(reversed(children))


def _children(node):
    """Returns (key, child) of each part of an object that may hold weights."""
    if isinstance(node, dict):
        return [(key, child) for key, child in node.items() if isinstance(key, (str, int))]
    if isinstance(node, (list, tuple)):
        return list(enumerate(node))
    children = [*_children(node.items), *enumerate(node.elements)]
    if _name(node) == "OrderedDict" and node.arguments:  # of Python 2
        children += [pair for pair in node.arguments[0] if len(pair) == 2]
    if isinstance(node.state, dict):
        if "_parameters" in node.state:  # a module
            parts = [node.state.get(part) for part in ("_parameters", "_buffers", "_modules")]
            for part in parts:
                if isinstance(part, (dict, Object)):
                    children += _children(part)
        elif isinstance(node.function, Named) and node.function.module.startswith("__torch__"):
            children += _children(node.state)  # TorchScript's
    return children


def _unwrapped(node):
    """Returns the tensor that a parameter or a subclass of tensor consists of."""
    for _ in range(MOST_DEPTH):
        if not isinstance(node, Object):
            break
        if _name(node) in WRAPPERS:
            node = node.arguments[0]
        elif _name(node) == "_rebuild_from_type_v2":
            node = Object(node.arguments[0], tuple(node.arguments[2]))
        else:
            break
    return node


def _name(node):
    return node.function.name if isinstance(node.function, Named) else ""


def _tensor(node):
    if _name(node) in UNREADABLE:
        raise _Unsupported(UNREADABLE[_name(node)])
    storage, offset, shape, strides, *more = node.arguments
    pid = storage.arguments[0]
    if not _is_storage(pid) or (len(pid) > 5 and pid[5] is not None):
        raise ValueError("a tensor's storage")
    _, kind, key, _, count = pid[:5]
    dtype = kind.name
    if dtype == "UntypedStorage":
        dtype = more[2].name  # of _rebuild_tensor_v3
        count //= _item_size(dtype)
    if dtype not in DTYPES:
        raise _Unsupported(dtype[:40])
    if not isinstance(count, int) or count < 0:
        raise ValueError("a storage's size")
    return _Tensor(str(key), np.dtype(DTYPES[dtype]), count, offset, tuple(shape), tuple(strides))


def _is_storage(pid):
    return isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"


def _item_size(dtype):
    """Returns the bytes of a number, of a dtype or storage that may not be read."""
    if dtype in DTYPES:
        return np.dtype(DTYPES[dtype]).itemsize
    if dtype not in OTHER_SIZES:
        raise _Unsupported(dtype[:40])
    return OTHER_SIZES[dtype]
