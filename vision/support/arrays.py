"""NumPy's .npy and .npz files, which may lie about their size or hold objects that run code."""

import io
import math
import os
import pathlib
import zipfile
from typing import IO

import numpy as np
from numpy.lib import format as npy

from vision.errors import UserError
from vision.support.reading import parsing, read_bytes

LARGEST = 1 << 40  # bytes of a file of arrays
MOST_EXPANSION = 1100  # times; deflate cannot do more
MOST_MEMBERS = 100_000
_PIECE = 1 << 24  # bytes that are read at a time
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: pathlib.Path | str, remedy: str = "") -> dict[str, np.ndarray]:
    """Returns {name: array} of an .npz file. What a header claims is checked before it is read.

    Args:
        path: the file.
        remedy: what to do if it cannot be read, for messages.

    Raises:
        UserError: missing, damaged, or it contains something other than arrays.
    """
    with parsing(path, "a complete .npz file of arrays", remedy), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise UserError(f"{path} has {len(members):,} members, too many for arrays")
        return {
            member.filename.removesuffix(".npy"): _read_member(archive, member)
            for member in members
        }


def read_npy(path: pathlib.Path | str, remedy: str = "") -> np.ndarray:
    """Returns the array of an .npy file; see `read_npz`."""
    with parsing(path, "a complete .npy file of an array", remedy):
        data = read_bytes(path, LARGEST)
        return _read_array(io.BytesIO(data), len(data))


def is_npy(path: pathlib.Path | str) -> bool:
    """Whether a file begins as an .npy file does."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
    except OSError:
        return False


def _read_member(archive, member):
    if member.file_size > MOST_EXPANSION * member.compress_size + MOST_EXPANSION:
        raise ValueError(f"{member.filename} claims {member.file_size:,} bytes")
    with archive.open(member) as file:
        return _read_array(file, member.file_size)


def _read_array(file: IO[bytes], size: int) -> np.ndarray:
    """Returns the array of a file with `size` bytes, after comparing the header with it."""
    version = npy.read_magic(file)
    if version not in _HEADERS:  # version 3 is for names of fields that are not ASCII
        raise ValueError(f"an array of format {version}")
    shape, fortran_order, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("contains Python objects, which may run code")
    if any(side < 0 for side in shape):
        raise ValueError("an array with a negative size")
    wanted = math.prod(shape) * dtype.itemsize
    rest = size - file.tell()
    if wanted != rest:
        raise ValueError(f"an array of {wanted:,} bytes, of which the file has {rest:,}")
    array = np.zeros(math.prod(shape), dtype)
    view = array.view(np.uint8) if wanted else array.view()
    for start in range(0, wanted, _PIECE):
        piece = file.read(min(_PIECE, wanted - start))
        if len(piece) != min(_PIECE, wanted - start):
            raise ValueError("an array that is cut off")
        view[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
    if not fortran_order:
        return array.reshape(shape)
    return array.reshape(shape[::-1]).transpose()
