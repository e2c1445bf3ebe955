"""Columns by request: a CSV or Parquet file with latencies, business measures, users, ..."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.data.tables import read_rows
from vision.errors import UserError, shown
from vision.monitoring.abtest.moments import LARGEST
from vision.support.reading import parsing

ID = "id"


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns by request.

    Attributes:
        source: the file, for messages.
        ids: PyArrow array of text (L,), requests' identifiers, all different.
        numbers: {name: float64 (L,)}; NaN where a cell is empty (in Parquet files null or NaN).
        texts: {name: text (L,)}; "" where a cell is empty.
    """

    source: str
    ids: Any
    numbers: dict[str, np.ndarray]
    texts: dict[str, np.ndarray]

    def places_of(self, ids: Any) -> np.ndarray:
        """Returns the place of each request, int64 (K,), -1 if it has none.

        Args:
            ids: PyArrow array of text (K,).
        """
        import pyarrow.compute

        places = pyarrow.compute.index_in(ids, value_set=self.ids).fill_null(-1)
        return places.to_numpy(zero_copy_only=False).astype(np.int64)


def columns_of(path: pathlib.Path) -> list[str]:
    """Returns the names of a file's columns, other than the identifier's.

    Raises:
        UserError: it cannot be read, or has no column `id`.
    """
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        with parsing(path, "a complete Parquet file"):
            names = pyarrow.parquet.read_schema(path).names
    else:
        names = read_rows(path)[0]
    if ID not in names:
        listed = ", ".join(map(shown, names[:10]))
        raise UserError(
            f"--table {path} has no column 'id', the request's identifier, only {listed}"
        )
    return [name for name in names if name != ID]


def read_columns(path: pathlib.Path, numbers: Sequence[str], texts: Sequence[str]) -> Table:
    """Returns columns of a file, which `columns_of` names.

    Args:
        path: the file.
        numbers: names of columns of numbers.
        texts: names of columns of text.

    Raises:
        UserError: it cannot be read or has no rows; a cell holds something other than a number of
            at most `LARGEST`; a row has no id, or that of another.
    """
    import pyarrow

    wanted = list(dict.fromkeys([ID, *numbers, *texts]))
    if path.suffix.lower() == ".parquet":
        columns = _parquet_columns(path, wanted)
    else:
        header, rows, _ = read_rows(path)
        columns = {name: [row[header.index(name)].strip() for row in rows] for name in wanted}
    ids = pyarrow.array(columns[ID], pyarrow.string())
    _check_ids(path, ids)
    return Table(
        str(path),
        ids,
        {name: _numbers(path, name, columns[name], columns[ID]) for name in numbers},
        {name: np.array(columns[name], object) for name in texts},
    )


def _parquet_columns(path, wanted):
    """Returns {name: list of text} of a Parquet file, as a CSV file would hold it."""
    import pyarrow.compute
    import pyarrow.parquet

    def texts(column):
        if pyarrow.types.is_floating(column.type):  # NaN is what NumPy has for a missing value
            column = pyarrow.compute.if_else(pyarrow.compute.is_nan(column), None, column)
        return column.cast(pyarrow.string()).fill_null("").to_pylist()

    with parsing(path, "a Parquet file with columns of numbers or text"):
        table = pyarrow.parquet.read_table(path, columns=wanted)
        return {name: texts(table[name]) for name in wanted}


def _check_ids(path, ids):
    counts = ids.value_counts()
    if not len(ids):
        raise UserError(f"--table {path} has no rows: it needs one for each request")
    highest = int(np.argmax(counts.field("counts").to_numpy()))
    name = counts.field("values")[highest].as_py()
    if counts.field("counts")[highest].as_py() > 1:
        raise UserError(f"--table {path} has two rows for request {shown(name)}: keep one")
    if "" in ids.to_pylist():
        raise UserError(f"--table {path} has a row without an id")


def _numbers(path, name, cells, ids):
    values = np.full(len(cells), np.nan)
    for place, cell in enumerate(cells):
        if not cell:
            continue
        try:
            values[place] = float({"true": "1", "false": "0"}.get(cell.lower(), cell))
        except ValueError:
            values[place] = math.inf
        if not abs(values[place]) <= LARGEST:
            raise UserError(
                f"--table {path}, request {shown(ids[place])}: {name} must be a number from "
                f"-{LARGEST:g} to {LARGEST:g}, got {shown(cell)}"
            )
    return values
