"""What the images of a pack were called in the source that was packed, by which a run divides them.

DIR/PART.names.csv.gz    a gzipped table of text, `name,photo,group`, a row for each image: its name
                         within that source; the photo that it was cut out of, "" if none; and its
                         group of `?group=`, "" if none
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vision.data.identity import base_of, has_names, keys_of
from vision.data.sources import Source
from vision.support.compressed_table import read_table, write_table
from vision.support.reading import parsing
from vision.support.schema import damaged

HEADER = ["name", "photo", "group"]
REPAIR = "copy it again, or repeat the pack command, which repairs it"


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
    write_table(path, HEADER, zip(*columns, strict=True))
    return True


def read_names(paths: Sequence[Path | str], count: int) -> Names:
    """Reads the table of `count` images, which may be in several files, one after the other.

    Raises:
        UserError: it is missing or damaged, or of another number of images.
    """
    with parsing(paths[0], remedy=REPAIR):
        return _read(tuple((str(path), os.stat(path).st_mtime_ns) for path in paths), count)


@functools.lru_cache(4)
def _read(files, count):
    paths = [path for path, _ in files]
    rows = [row for path in paths for row in read_table(path, HEADER, REPAIR)]
    if len(rows) != count:
        reason = f"there are {len(rows):,} rows for {count:,} images"
        raise damaged(" and ".join(paths), reason, REPAIR)
    return Names(*([row[i] for row in rows] for i in range(len(HEADER))))
