"""A table of images to classify, with what a model takes beside each: no labels are needed."""

import os
from pathlib import Path

import numpy as np

from vision.data.captions import FIELD
from vision.data.fields import FieldEncoder
from vision.data.sources import parse
from vision.data.tables import read_rows
from vision.errors import UserError


def read_examples(
    name: Path | str, encoder: FieldEncoder, source: str
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Reads a CSV table, whose columns are named as those of the table that a model learned from.

    Args:
        name: the file; paths of images in it are relative to its folder.
        encoder: the model's.
        source: the source that the model learned from, which may name columns: `csv:FILE?path=...`.

    Returns:
        (paths of the images, their fields {name: (N, ...)}).

    Raises:
        UserError: it cannot be read, lacks a column, or has a cell that is not a number where one
            is needed.
    """
    header, rows, lines = read_rows(name)
    options = parse(source)[2] if source else {}
    columns = {name: name for name in encoder.names}
    if FIELD in columns:
        columns[FIELD] = options.get("text", FIELD)
    path = options.get("path", "path")
    for column in (path, *columns.values()):
        if column not in header:
            raise UserError(
                f"{name} has no column '{column}', which the model takes; its columns are "
                f"{', '.join(header)}"
            )
    cells = {
        field: [row[header.index(column)].strip() for row in rows]
        for field, column in columns.items()
    }
    fields = encoder.encode(cells, lambda row: f"{name}, line {lines[row]}")
    folder = os.path.dirname(name)
    return [os.path.join(folder, row[header.index(path)].strip()) for row in rows], fields
