"""Files of labels: CSV or Parquet, made by people and by tools, checked as they are read."""

import datetime
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from vision.data.tables import read_rows
from vision.errors import UserError, brief, shown
from vision.support.reading import parsing

SUFFIXES = (".csv", ".tsv", ".parquet")
NEEDED = ("id", "label")
OPTIONAL = ("image", "time")


def files_of(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of labels that --labels names.

    Raises:
        UserError: there is none.
    """
    try:
        if path.is_dir():
            return _files_in(path)
        path.stat()
    except FileNotFoundError as error:
        raise UserError(f"there is no file or folder --labels {path}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"--labels {shown(str(path))} cannot be read: {brief(error)}") from error
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--labels {path} must be a folder, or a file .csv, .tsv or .parquet")
    return [path]


def _files_in(folder):
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith((".", "_"))
    )
    if not files:
        raise UserError(f"--labels {folder} has no file of labels: *.csv, *.tsv or *.parquet")
    return files


def read_table(file: pathlib.Path) -> Any:
    """Returns the PyArrow table of a file of labels.

    Its columns are `id` and `label` (text; an empty label is ""), `image` (int64) and `time`
    (float64, seconds since the epoch; NaN if unknown).

    Raises:
        UserError: it cannot be read, has no rows, lacks a column, or a value is not of its kind.
    """
    import pyarrow

    is_parquet = file.suffix.lower() == ".parquet"
    columns = _parquet_columns(file) if is_parquet else _csv_columns(file)
    rows = len(columns["id"])
    columns.setdefault("image", pyarrow.array(np.zeros(rows, np.int64)))
    columns.setdefault("time", pyarrow.array(np.full(rows, np.nan)))
    kinds = {"id": "string", "label": "string", "image": "int64", "time": "float64"}
    fields = [(name, pyarrow.type_for_alias(kind)) for name, kind in kinds.items()]
    return pyarrow.table([columns[name] for name in kinds], schema=pyarrow.schema(fields))


def _check_columns(file, names):
    missing = [name for name in NEEDED if name not in names]
    if missing:
        listed = ", ".join(map(shown, list(names)[:10])) or "none"
        raise UserError(
            f"{file} has no column {missing[0]!r}, but {listed}: labels need the columns id "
            "(of the request) and label"
        )


def _csv_columns(file):
    import pyarrow

    header, rows, lines = read_rows(file)
    _check_columns(file, header)
    cells = {
        name: [row[header.index(name)].strip() for row in rows]
        for name in (*NEEDED, *OPTIONAL)
        if name in header
    }
    empty = next((line for line, text in zip(lines, cells["id"], strict=True) if not text), None)
    if empty is not None:
        raise UserError(f"{file}, line {empty} has no id")
    columns = {name: pyarrow.array(cells[name], pyarrow.string()) for name in NEEDED}
    for name, parse in (("image", _index), ("time", _moment)):
        if name in cells:
            columns[name] = pyarrow.array(
                [
                    parse(text, f"{file}, line {line}")
                    for text, line in zip(cells[name], lines, strict=True)
                ]
            )
    return columns


def _index(text, place):
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise UserError(f"{place}: image must be its index in the request, got {shown(text)}")
    return int(text)


def _moment(text, place):
    """Returns seconds since the epoch; NaN of an empty text."""
    if not text:
        return np.nan
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"{place}: time must be seconds since the epoch or ISO 8601, got {shown(text)}"
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _parquet_columns(file):
    import pyarrow.compute
    import pyarrow.parquet

    with parsing(file, "a complete Parquet file"):
        names = pyarrow.parquet.read_schema(file).names
        _check_columns(file, names)
        wanted = [name for name in (*NEEDED, *OPTIONAL) if name in names]
        table = pyarrow.parquet.read_table(file, columns=wanted)
    if not len(table):
        raise UserError(f"{file} has no rows: it needs one for each image")
    columns = {}
    for name in wanted:
        kind, convert = _CONVERSIONS[name]
        with parsing(file, f"a table of labels whose column {name} is {kind}"):
            columns[name] = convert(table[name], pyarrow)
    if pyarrow.compute.any(pyarrow.compute.equal(columns["id"], "")).as_py():
        raise UserError(f"{file} has a row without an id")
    return columns


def _text(column, arrow):
    return arrow.compute.utf8_trim_whitespace(column.cast(arrow.string()).fill_null(""))


def _indices(column, arrow):
    numbers = column.cast(arrow.int64())
    if numbers.null_count or (arrow.compute.min(numbers).as_py() or 0) < 0:
        raise ValueError("a row has none, or one below 0")
    return numbers


def _seconds(column, arrow):
    """Returns float64 seconds since the epoch of timestamps, dates, numbers or text."""
    if arrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if arrow.types.is_date(column.type):
        column = column.cast(arrow.timestamp("us"))
    if arrow.types.is_timestamp(column.type):
        micros = column.cast(arrow.timestamp("us", column.type.tz), safe=False).cast(arrow.int64())
        return arrow.compute.divide(micros.cast(arrow.float64()), 1e6).fill_null(np.nan)
    if arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type):
        return arrow.array([_moment(text or "", "a row") for text in column.to_pylist()])
    return column.cast(arrow.float64()).fill_null(np.nan)


# {column: (what it holds, function of it and of PyArrow that returns it as it should be)}
_CONVERSIONS: dict[str, tuple[str, Callable]] = {
    "id": ("text", _text),
    "label": ("text", _text),
    "image": ("indices in the request", _indices),
    "time": ("timestamps or seconds", _seconds),
}
