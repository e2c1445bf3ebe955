"""`idx:FOLDER`: images in the files of MNIST and its successors, gzipped or not.

    train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz]
    t10k-images-idx3-ubyte[.gz], t10k-labels-idx1-ubyte[.gz]

MNIST, Fashion-MNIST, KMNIST and others are published like this. The classes are the numbers of the
labels, unless the folder has a `classes.txt` with a name on each line. The format: LeCun et al.
1998, http://yann.lecun.com/exdb/mnist.
"""

import gzip
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np

from vision.data.sources import Source
from vision.data.sources._arrays import ArraySource
from vision.errors import UserError, brief

PARTS = {"train": "train", "test": "t10k"}
UINT8 = 8  # the only type of the format that pixels and labels have


def open(argument: str) -> dict[str, Source]:
    """Opens a folder of IDX files.

    Returns:
        {"train": source, "test": source}, or one of them if the other's files are not there.

    Raises:
        UserError: there are no such files, or they are damaged or do not belong together.
    """
    folder = pathlib.Path(argument).expanduser()
    pairs = {}
    for split, part in PARTS.items():
        images = _file(folder, f"{part}-images-idx3-ubyte")
        labels = _file(folder, f"{part}-labels-idx1-ubyte")
        if images and labels:
            pairs[split] = _read_pair(images, labels)
    if not pairs:
        raise UserError(
            f"{folder} has no train-images-idx3-ubyte and train-labels-idx1-ubyte, gzipped or not"
        )
    classes = _classes(folder, max(int(labels.max()) for _, labels in pairs.values()) + 1)
    return {
        split: ArraySource(images, labels, classes, f"{folder}/{split}")
        for split, (images, labels) in pairs.items()
    }


def _file(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _read_pair(images: pathlib.Path, labels: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (images uint8 (N, H, W, 1), labels uint8 (N,))."""
    pixels = read_array(images, 3)
    numbers = read_array(labels, 1)
    if len(pixels) != len(numbers):
        raise UserError(
            f"{images} has {len(pixels):,} images, but {labels} has {len(numbers):,} labels"
        )
    return pixels[..., None], numbers


def read_array(path: pathlib.Path, rank: int) -> np.ndarray:
    """Returns the array of an IDX file, uint8.

    Its bytes: two zeros, type 8 (uint8), the rank, the shape as 32-bit numbers, the data.

    Raises:
        UserError: the file cannot be read, or is not a whole array of this rank.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {brief(error)}") from error
    start = 4 + 4 * rank
    if len(data) < start or data[:4] != bytes((0, 0, UINT8, rank)):
        raise UserError(f"{path} is not an IDX file of bytes with {rank} axes")
    shape = tuple(np.frombuffer(data, ">u4", count=rank, offset=4).tolist())
    size = int(np.prod(shape, dtype=object))
    if size == 0 or len(data) != start + size:
        raise UserError(
            f"{path} is damaged: {len(data) - start:,} bytes of data for an array of {shape}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _classes(folder: pathlib.Path, count: int) -> Sequence[str]:
    file = folder / "classes.txt"
    if not file.is_file():
        return [str(number) for number in range(count)]
    names = file.read_text(encoding="utf-8").split("\n")
    names = [name.strip() for name in names if name.strip()]
    if len(names) < count or len(set(names)) < len(names):
        raise UserError(
            f"{file} must list at least {count} different class names, one per line; it has "
            f"{len(set(names))}"
        )
    return names
