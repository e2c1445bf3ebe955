"""What an image is called within its source, wherever the source lies: what splits are drawn by.

An image file is called by its path from the source's root, with "/" between folders, so that a
folder that was moved, or is given as `./photos`, is divided in the same way. Images of arrays and
tables have no names of their own: they are called by their position, such as "train[17]".
"""

from collections.abc import Iterable
from typing import Any

import numpy as np


def base_of(source: Any) -> tuple[Any, np.ndarray]:
    """Returns (the opened source below any subset of it, int64 (N,) positions there)."""
    rows = np.arange(len(source))
    while hasattr(source, "source"):
        if hasattr(source, "indices"):
            rows = source.indices[rows]
        source = source.source
    return source, rows


def keys_of(source: Any, part: str) -> np.ndarray:
    """Returns what each image is called, texts, object (N,).

    Args:
        source: a part of an opened source, or a subset of one.
        part: its name, such as "all" or "train", which images without names are called by.
    """
    base, rows = base_of(source)
    keys = _own_keys(base)
    if keys is None:
        return texts(f"{part}[{row}]" for row in rows.tolist())
    return keys[rows]


def units_of(source: Any, part: str, by_name: bool) -> np.ndarray | None:
    """Returns the name of each image's unit, texts, object (N,).

    A unit lies in one split as a whole. It is a group of `?group=`, an image, or the photo that
    objects are cut out of. None if the source is divided by position instead.

    Args:
        source: a part of an opened source, or a subset of one.
        part: its name, see `keys_of`.
        by_name: whether images with names of their own are divided by them.
    """
    base, rows = base_of(source)
    groups = getattr(base, "group_names", None)
    if groups is not None:
        keys = keys_of(source, part)
        return texts(
            f"group {group}" if group else f"image {key}"
            for group, key in zip(groups[rows], keys, strict=True)
        )
    keys = _own_keys(base)
    if keys is None or not by_name or not getattr(base, "named", True):
        return None
    photos = base.photos() if hasattr(base, "photos") else None
    photos = keys if photos is None else texts(photos)
    return texts(f"image {photo}" for photo in photos[rows])


def has_names(base: Any) -> bool:
    """Returns whether the images of an opened source have names, and not only positions."""
    return callable(getattr(base, "keys", None)) and base.keys() is not None


def texts(values: Iterable[str]) -> np.ndarray:
    """Returns texts as an array of objects, which unlike NumPy's own texts have any length."""
    values = list(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _own_keys(base):
    """Returns the names that a source's images have of their own; None if they have only places."""
    return texts(base.keys()) if has_names(base) else None
