"""Columns of a table as numbers: what a model learns from beside an image.

    data.columns = "age,weight,site"      kinds follow from the values of the training images
    data.columns = "age,ward:category"    a number of a ward is a name

A number stays as it is, float32, NaN if it is missing: the model standardizes it. A category is its
place among the values of the training images, from 1; 0 stands for a missing or new value.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vision.data.beside import names_of_columns
from vision.data.findings import Finding
from vision.data.identity import base_of
from vision.errors import UserError, check_choice, shown

NUMBERS = "numbers"  # float32 (N, K), a field of a source
CATEGORIES = "categories"  # int32 (N, M)
KINDS = ("number", "category")
ABSENT = ("", "na", "n/a", "nan", "null", "none")  # what a table has in the place of a number
LARGEST = float(np.finfo(np.float32).max)  # of a number
MOST_VALUES = 1000  # of a category
RESERVED = ("image", "images", "text")  # inputs of a model that are not columns
NEW = "column values did not occur in training and count as missing"


class Number(NamedTuple):
    """A column of numbers, with the mean and the standard deviation of the training images."""

    name: str
    mean: float
    std: float


class Category(NamedTuple):
    """A column of names, with the values of the training images, sorted."""

    name: str
    values: tuple[str, ...]


class Columns(NamedTuple):
    """The columns that a model takes, in their order among each kind."""

    numbers: tuple[Number, ...] = ()
    categories: tuple[Category, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns."""
        return (
            *(column.name for column in self.numbers),
            *(column.name for column in self.categories),
        )

    def encode(
        self, values: Mapping[str, Sequence[Any]], title: Callable[[int], str] = "row {}".format
    ) -> tuple[dict[str, np.ndarray], list[Finding]]:
        """Returns ({"numbers": float32 (N, K), "categories": int32 (N, M)}, findings).

        A kind without columns is left out.

        Args:
            values: {column: N cells}: texts, numbers or None.
            title: names a row, for messages.

        Raises:
            UserError: a cell of a column of numbers is not a finite number.
        """
        fields: dict[str, np.ndarray] = {}
        findings = []
        if self.numbers:
            columns = [_floats(column.name, values[column.name], title) for column in self.numbers]
            fields[NUMBERS] = np.stack(columns, 1).astype(np.float32)
        codes = []
        for category in self.categories:
            place = {value: i for i, value in enumerate(category.values, 1)}
            cells = [_text(cell) for cell in values[category.name]]
            codes.append([place.get(cell, 0) for cell in cells])
            findings += [
                Finding(NEW, title(row), f"{category.name} = {cell}")
                for row, cell in enumerate(cells)
                if cell and cell not in place
            ]
        if codes:
            fields[CATEGORIES] = np.array(codes, np.int32).T.copy()
        return fields, findings


def columns_of(options: Mapping[str, Any]) -> Columns:
    """Returns the columns that `config.model.options` describe."""
    numbers = tuple(Number(*column) for column in options.get(NUMBERS, ()))
    categories = tuple(
        Category(name, tuple(values)) for name, values in options.get(CATEGORIES, ())
    )
    return Columns(numbers, categories)


def parse(text: str) -> dict[str, str]:
    """Returns {column: its kind, "" if it follows from the values} of `config.data.columns`.

    Raises:
        UserError: it names no column, one twice, or one that has no such name.
    """
    kinds = {}
    for part in text.split(","):
        name, colon, kind = part.strip().rpartition(":")
        if not colon:
            name = kind
            kind = ""
        if kind:
            check_choice(f"data.columns, kind of '{name}'", kind, KINDS)
        if not name or name in kinds or name in RESERVED:
            raise UserError(
                f"data.columns = '{text}': list different column names, such as "
                f"'age,site:category'; reserved names are {', '.join(RESERVED)}"
            )
        kinds[name] = kind
    return kinds


def read(source: Any, names: Iterable[str], title: str) -> dict[str, list[Any]]:
    """Returns {column: N cells} of a source.

    Args:
        source: a split, or any other source.
        names: of the columns.
        title: the source's name, for messages.

    Raises:
        UserError: it has no such column.
    """
    base, rows = base_of(source)
    columns = names_of_columns(source)
    cells = {}
    for name in names:
        if name not in columns:
            has = f"its columns are {', '.join(columns)}" if columns else "it has no columns"
            raise UserError(
                f"{title} has no column '{name}', which data.columns or the model needs ({has})"
            )
        values = base.column_values(name)
        cells[name] = [values[row] for row in rows.tolist()]
    return cells


def learn(
    kinds: Mapping[str, str],
    cells: Mapping[str, Sequence[Any]],
    title: Callable[[int], str] = "row {}".format,
) -> Columns:
    """Returns what the columns of the training images hold.

    Args:
        kinds: from `parse`.
        cells: {column: N cells} of the training images.
        title: names an image, for messages.

    Raises:
        UserError: a column is empty, or has too many values for a category.
    """
    numbers = []
    categories = []
    for name, kind in kinds.items():
        texts = [_text(cell) for cell in cells[name]]
        if kind == "number" or (not kind and _are_numbers(texts)):
            every_number = _floats(name, texts, title)
            present = every_number[~np.isnan(every_number)]
            if not present.size:
                raise UserError(f"data.columns: '{name}' has no number in the training images")
            numbers.append(Number(name, float(present.mean()), float(present.std()) or 1.0))
            continue
        values = sorted(set(texts) - {""})
        if not values or len(values) > MOST_VALUES:
            raise UserError(
                f"data.columns: '{name}' has {len(values):,} different values in the training "
                f"images; a category needs 1 to {MOST_VALUES:,}. Leave the column out, or use "
                f"it as text: ?text={name}"
            )
        categories.append(Category(name, tuple(values)))
    return Columns(tuple(numbers), tuple(categories))


def _text(cell: Any) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():  # 1 and 1.0 are one name
        cell = int(cell)
    return str(cell).strip()


def _are_numbers(texts: Iterable[str]) -> bool:
    """Whether all texts that are not missing are numbers, and there is one."""
    present = [text for text in texts if text.lower() not in ABSENT]
    return bool(present) and all(map(_is_number, present))


def _is_number(text: str) -> bool:
    try:
        return "_" not in text and math.isfinite(float(text))  # Python reads 1_0 as 10
    except ValueError:
        return False


def _floats(name: str, cells: Sequence[Any], title: Callable[[int], str]) -> np.ndarray:
    """Returns the numbers of a column, float64 (N,), NaN for a missing one."""
    values = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        text = _text(cell)
        if text.lower() in ABSENT:
            continue
        if not _is_number(text) or abs(float(text)) > LARGEST:
            raise UserError(
                f"column '{name}' of {title(row)} must be a number, or empty if it is missing; "
                f"got {shown(text)}"
            )
        values[row] = float(text)
    return values
