"""What the images of a pack were called in the source that was packed, by which a run divides them.

DIR/PART.names.csv.gz    a gzipped table of text, `name,photo,group`, a row for each image: its name
                         within that source; the photo that it was cut out of, "" if none; and its
                         group of `?group=`, "" if none
"""

import csv
import functools
import gzip
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vision.data.identity import base_of, has_names, keys_of
from vision.data.sources import Source
from vision.errors import UserError
from vision.support.files import replacing

HEADER = ["name", "photo", "group"]


class Names(NamedTuple):
    """The columns of the table, lists of N texts."""

    names: list[str]
    photos: list[str]
    groups: list[str]


def write_names(path: Path, source: Source, left_out: Sequence[int] | np.ndarray) -> bool:
    """Writes the table; returns False, and writes nothing, if the images have no names or groups.

    Args:
        path: the file.
        source: the part that is packed.
        left_out: positions of images that are not in the pack.
    """
    base, rows = base_of(source)
    groups = getattr(base, "group_names", None)
    if not has_names(base) and groups is None:
        return False
    rows = np.delete(rows, left_out)
    blank = [""] * len(rows)
    photos = base.photos() if hasattr(base, "photos") else None
    columns = [
        np.delete(keys_of(source, ""), left_out) if has_names(base) else blank,
        blank if photos is None else [photos[row] for row in rows.tolist()],
        blank if groups is None else groups[rows],
    ]
    with (
        replacing(path, binary=True) as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        io.TextIOWrapper(packed, "utf-8", "surrogateescape", newline="") as text,
    ):
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(zip(*columns, strict=True))
    return True


def read_names(paths: Sequence[Path | str], count: int) -> Names:
    """Reads the table of `count` images, which may be in several files, one after the other.

    Raises:
        UserError: it is missing or damaged, or of another number of images.
    """
    try:
        return _read(tuple((str(path), os.stat(path).st_mtime_ns) for path in paths), count)
    except (OSError, EOFError, ValueError, csv.Error) as error:
        files = ", ".join(map(str, paths))
        raise UserError(
            f"{files} cannot be read ({error}): copy it again, or repeat the pack command"
        ) from error


@functools.lru_cache(4)
def _read(files, count):
    rows = []
    for path, _ in files:
        with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            if next(reader, None) != HEADER:
                raise ValueError("its first line is another")
            rows += reader
    columns = [list(column) for column in zip(*rows, strict=True)]
    if [len(column) for column in columns] != [count] * 3:
        raise ValueError(f"it does not have a row for each of {count} images")
    return Names(*columns)
