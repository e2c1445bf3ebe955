"""Input tensors: images as raw pixels or as encoded files, from JSON or from binary data."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.serving.errors import Refused, TooLarge
from vision.serving.protocol.base64_text import decode_base64
from vision.serving.protocol.json_io import quote

# images in a request, whatever the settings: looking at that many takes a thirtieth of a second
MAX_IMAGES = 65_536
LONGEST_TEXT = 4_096  # characters; all of them are tokenized before a text is cut
IMAGES = ("images", "image")  # the inputs that hold images
NUMBERS = {  # the dtype of each datatype of numbers
    "BOOL": "?",
    "FP32": "<f4",
    "FP64": "<f8",
    "INT32": "<i4",
    "INT64": "<i8",
}


@dataclasses.dataclass
class Tensor:
    """An input.

    Attributes:
        name: V2's name.
        datatype: V2's name of the type.
        shape: its dimensions, as the client sent them.
        data: raw bytes, as in the binary extension; the texts of a BYTES tensor; or JSON's lists,
            flat or nested.
    """

    name: str
    datatype: str
    shape: list[Any]
    data: bytes | memoryview | list[Any]


def images_of(tensors: Sequence[Tensor]) -> np.ndarray | list[bytes]:
    """Returns the images of a V2 request: uint8 (N, H, W, C), or a list of encoded ones."""
    images = [tensor for tensor in tensors if tensor.name in IMAGES]
    if len(images) != 1:
        raise Refused(
            "send exactly one input of images: 'images' (UINT8, raw pixels) or 'image' (BYTES, "
            "encoded)"
        )
    (tensor,) = images
    if tensor.name == "images":
        _check_type(tensor, "UINT8", (4,), "[N, height, width, channels]")
        return _pixels(tensor)
    _check_type(tensor, "BYTES", (1, 2), "[N]")
    count = math.prod(tensor.shape)
    check_image_count(count)
    return _encoded_images(tensor, count)


def cells_of(tensors: Sequence[Tensor]) -> dict[str, list[Any]]:
    """Returns {name: N texts or numbers} of the inputs of a V2 request that are not its images.

    A model of more than images takes them: texts as BYTES, columns as BYTES or numbers.
    """
    cells: dict[str, list[Any]] = {}
    for tensor in tensors:
        if tensor.name in IMAGES:
            continue
        if tensor.name in cells:
            raise Refused(f"input {quote(tensor.name)} is sent twice")
        datatype = tensor.datatype if tensor.datatype in NUMBERS else "BYTES"
        _check_type(tensor, datatype, (1, 2), "[N]")
        cells[tensor.name] = _cells(tensor, math.prod(tensor.shape))
    return cells


def _cells(tensor, count):
    """Returns the texts or numbers of a tensor, as a flat list."""
    check_image_count(count)
    if not isinstance(tensor.data, list):
        if tensor.datatype == "BYTES":
            return [_text(tensor, text) for text in unpack_bytes(tensor.data, count)]
        dtype = np.dtype(NUMBERS[tensor.datatype])
        if len(tensor.data) != count * dtype.itemsize:
            raise Refused(
                f"input {quote(tensor.name)} has {len(tensor.data)} bytes, but its shape needs "
                f"{count * dtype.itemsize}"
            )
        return np.frombuffer(tensor.data, dtype).tolist()
    values = _flat(tensor, count, "values")
    if tensor.datatype == "BYTES":
        return [_text(tensor, value) for value in values]
    if not all(value is None or type(value) in (int, float, bool) for value in values):
        raise Refused(f"input {quote(tensor.name)} must hold numbers, or null for missing ones")
    return values


def _text(tensor, value):
    """Returns a value of a BYTES tensor as text; null is missing."""
    if value is None:
        return ""
    try:
        text = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise Refused(f"input {quote(tensor.name)} must be UTF-8") from error
    if not isinstance(text, str):
        raise Refused(f"input {quote(tensor.name)} must hold texts, or null for missing ones")
    if len(text) > LONGEST_TEXT:
        raise TooLarge(
            f"a text of input {quote(tensor.name)} has {len(text):,} characters: send at most "
            f"{LONGEST_TEXT:,}"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON may hold half of a character
        raise Refused(f"input {quote(tensor.name)} must be UTF-8") from error
    return text


def check_image_count(count: int) -> None:
    """Raises `TooLarge` if a request has more than `MAX_IMAGES` images."""
    if count > MAX_IMAGES:
        raise TooLarge(f"the request has {count:,} images: send at most {MAX_IMAGES:,}")


def bytes_of_lists(data: list[Any]) -> tuple[bytes, list[int]]:
    """Returns (bytes, shape) of nested JSON lists of numbers from 0 to 255."""
    shape = [len(data)]
    while data and isinstance(data[0], list):
        size = len(data[0])
        if len(shape) == 4 or not all(type(row) is list and len(row) == size for row in data):
            raise Refused("the lists of pixels differ in length or are nested too deeply")
        shape.append(size)
        data = list(itertools.chain.from_iterable(data))
    try:
        return bytes(data), shape
    except (ValueError, TypeError, OverflowError) as error:
        raise Refused("pixels must be integers from 0 to 255") from error


def unpack_bytes(data: bytes | memoryview, count: int) -> list[bytes]:
    """Returns the texts of a raw BYTES tensor.

    Each text follows its length, 4 bytes, little endian.

    Args:
        data: the tensor.
        count: number of texts that it must contain.
    """
    texts: list[bytes] = []
    start = 0
    while start < len(data) and len(texts) < count:
        size = int.from_bytes(data[start : start + 4], "little")
        texts.append(bytes(data[start + 4 : start + 4 + size]))
        start += 4 + size
    if start != len(data) or len(texts) != count:
        raise Refused(f"the BYTES tensor must have {count} texts, each after its length in 4 bytes")
    return texts


def pack_bytes(texts: Sequence[bytes]) -> bytes:
    """Returns a raw BYTES tensor; see `unpack_bytes`."""
    return b"".join(
        itertools.chain.from_iterable((len(text).to_bytes(4, "little"), text) for text in texts)
    )


def _check_type(tensor: Tensor, datatype: str, ranks: tuple[int, ...], shape: str) -> None:
    """Raises `Refused` unless a tensor has a datatype, a rank and a shape of positive numbers."""
    if tensor.datatype != datatype:
        name = quote(tensor.name)
        raise Refused(f"input {name} must be {datatype}, got {quote(tensor.datatype)}")
    if len(tensor.shape) not in ranks or not all(
        type(size) is int and 0 < size < 2**31 for size in tensor.shape
    ):
        raise Refused(
            f"input {quote(tensor.name)} must have the shape {shape}, each at least 1, "
            f"got {quote(tensor.shape)}"
        )


def _pixels(tensor):
    """Returns the array of raw pixels in a tensor."""
    count = math.prod(tensor.shape)
    data = tensor.data
    if isinstance(data, list):
        data, shape = bytes_of_lists(data)
        if len(shape) > 1 and shape != tensor.shape:
            raise Refused(
                f"the lists of input 'images' have shape {shape}, but it declares {tensor.shape}"
            )
    if len(data) != count:
        raise Refused(f"input 'images' has {len(data)} numbers, but its shape needs {count}")
    return np.frombuffer(data, np.uint8).reshape(tensor.shape)


def _flat(tensor, count, noun):
    """Returns the values in a tensor's lists, which may be nested once."""
    rows = (row if isinstance(row, list) else [row] for row in tensor.data)
    values = list(itertools.chain.from_iterable(rows))
    if len(values) != count:
        raise Refused(
            f"input {quote(tensor.name)} has {len(values)} {noun}, but its shape needs {count}"
        )
    return values


def _encoded_images(tensor, count):
    """Returns the encoded images of a BYTES tensor."""
    if not isinstance(tensor.data, list):
        return unpack_bytes(tensor.data, count)
    texts = _flat(tensor, count, "texts")
    return [text if isinstance(text, bytes) else decode_base64(text) for text in texts]
