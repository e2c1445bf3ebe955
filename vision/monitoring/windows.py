"""Cuts the rows of a log into windows: of equally many rows, or of equally long times."""

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vision.errors import UserError, check_range
from vision.monitoring.cutting import Cutter, Span
from vision.reference.features import NAMES
from vision.reference.log_format import loggable
from vision.reference.sketch import DIMENSIONS
from vision.reference.statistics import Reference
from vision.reference.verdict import LEAST_ROWS
from vision.reference.window import Window

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
COLUMNS = ["time", "bundle", "model", "version", "class", *NAMES, "sketch", "kept"]
KEPT = 200  # names of kept images that a window remembers, at most


class Kept(NamedTuple):
    """An image that was kept: its file below the log's folder, its row's values and class."""

    file: str
    values: np.ndarray
    label: int


class Rows(NamedTuple):
    """Rows of one bundle.

    Attributes:
        seconds: float64 (N,), since the epoch.
        values: float32 (N, 9), `vision.reference.features.NAMES`.
        classes: integers (N,).
        sketches: float16 (N, 16).
        kept: {place: name of the file of an image that was kept}.
    """

    seconds: np.ndarray
    values: np.ndarray
    classes: np.ndarray
    sketches: np.ndarray
    kept: Mapping[int, str]

    def part(self, chosen: np.ndarray) -> "Rows":
        """Returns the rows at some places, integers (M,), sorted."""
        places = {int(place): i for i, place in enumerate(chosen)} if self.kept else {}
        kept = {places[place]: name for place, name in self.kept.items() if place in places}
        return Rows(
            self.seconds[chosen],
            self.values[chosen],
            self.classes[chosen],
            self.sketches[chosen],
            kept,
        )


@dataclasses.dataclass
class Slot:
    """A window of a history.

    Attributes:
        number: of the window, in order.
        window: what is known of its rows.
        kept: some of its images that were kept.
    """

    number: int
    window: Window
    kept: list[Kept] = dataclasses.field(default_factory=list)

    def add(self, rows: Rows) -> None:
        """Adds rows."""
        self.window.add(rows.values, rows.classes, rows.sketches, rows.seconds)
        for place, name in rows.kept.items():
            if len(self.kept) < KEPT:
                self.kept.append(Kept(name, rows.values[place], int(rows.classes[place])))


class Selector:
    """Takes the rows of one bundle from a log's batches.

    Args:
        fingerprint: the bundle's.
        classes: names of its classes.

    Attributes:
        rows: rows of the bundle.
        others: {(model, version): rows of other bundles}.
        names: {(model, version): rows of this one}.
    """

    def __init__(self, fingerprint: str, classes: tuple[str, ...]):
        self._fingerprint = fingerprint
        self._places = {name: i for i, name in enumerate(loggable(classes))}
        self.others: collections.Counter = collections.Counter()
        self.names: collections.Counter = collections.Counter()

    @property
    def rows(self) -> int:
        return sum(self.names.values())

    def select(self, batch: Any) -> Rows:
        """Returns the bundle's rows of a `pyarrow.RecordBatch` of `COLUMNS`.

        Raises:
            UserError: a class is not one of the bundle's.
        """
        from vision.monitoring.log import seconds_of

        columns = {name: batch.column(name) for name in batch.schema.names}
        is_own = _matches(columns["bundle"], self._fingerprint)
        _count(self.names, columns, is_own)
        _count(self.others, columns, ~is_own)
        rows = self.places(batch)
        values = [columns[name].to_numpy(zero_copy_only=False)[rows] for name in NAMES]
        sketches = columns["sketch"].flatten().to_numpy(zero_copy_only=False)
        kept = {}
        if columns["kept"].null_count < len(batch):
            names = columns["kept"].to_pylist()
            kept = {i: names[row] for i, row in enumerate(rows) if names[row] is not None}
        classes = self._class_places(columns["class"])[rows]
        if (classes < 0).any():
            name = columns["class"][int(rows[classes.argmin()])].as_py()
            raise UserError(
                f"the log has class {name!r} for the bundle's model, but bundle.json does not: was "
                "it changed? Give the bundle that was served"
            )
        return Rows(
            seconds_of(batch)[rows],
            np.stack(values, 1).astype(np.float32, copy=False),
            classes,
            sketches.reshape(-1, DIMENSIONS)[rows],
            kept,
        )

    def places(self, batch: Any) -> np.ndarray:
        """Returns int64 (n,), where the rows that `select` returns are in the batch."""
        return np.flatnonzero(_matches(batch.column("bundle"), self._fingerprint))

    def _class_places(self, column):
        """Returns the places of a column's classes; of other bundles' rows, any."""
        names = column.dictionary.to_pylist()
        places = np.array([self._places.get(name, -1) for name in names], np.int64)
        return places[column.indices.to_numpy(zero_copy_only=False)]


def parse_span(text: str) -> Span:
    """Returns the `Span` that --window gives: "1000" rows, or "90s", "30m", "1h", "7d".

    Raises:
        UserError: it is neither, or too short.
    """
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip())
    if not match:
        raise UserError(
            f"--window must be a number of rows, or a time such as 30m, 1h or 7d, got {text!r}"
        )
    number = int(match[1])
    if match[2]:
        check_range("--window", text, number > 0, "longer than 0")
        return Span(0, float(number * UNITS[match[2]]))
    check_range("--window", number, number >= LEAST_ROWS, f"at least {LEAST_ROWS} rows")
    return Span(number, 0.0)


class History:
    """The latest windows of a bundle's rows.

    Args:
        reference: the bundle's.
        span: how long a window is.
        most: windows that are remembered, the latest.

    Attributes:
        late: rows of windows that were forgotten already.
    """

    def __init__(self, reference: Reference, span: Span, most: int):
        self._most = most
        self._cutter = Cutter(
            span,
            most,
            lambda number: Slot(number, Window(reference, number % 2**32)),
            lambda slot, rows, chosen: slot.add(rows.part(chosen)),
        )

    @property
    def late(self) -> int:
        return self._cutter.late

    def numbers(self, rows: Rows) -> np.ndarray:
        """Returns the number of the window that each of the next rows belongs to, int64 (N,)."""
        return self._cutter.numbers(rows.seconds)

    def add(self, rows: Rows) -> None:
        """Adds rows."""
        self._cutter.add(rows, rows.seconds)

    def full(self, now: float) -> list[Slot]:
        """Returns the windows that are over, the earliest first.

        The last one has enough rows to be tested, if any has. A window of time is over by the
        clock, although the server may not have written its last rows yet.

        Args:
            now: seconds since the epoch.
        """
        slots = self._cutter.full(now)
        while len(slots) > 1 and slots[-1].window.rows < LEAST_ROWS:
            slots.pop()
        return slots[-self._most :]


def _matches(column, value):
    """Returns bool (N,), which rows of a dictionary column have a value."""
    names = np.array([name == value for name in column.dictionary.to_pylist()], bool)
    return names[column.indices.to_numpy(zero_copy_only=False)]


def _count(counter, columns, chosen):
    """Counts rows by model and version."""
    for (model, version), rows in _pairs(columns, chosen):
        counter[model, version] += rows


def _pairs(columns, chosen):
    """Yields ((model, version), rows) of the chosen rows."""
    models = columns["model"]
    versions = columns["version"]
    width = max(len(versions.dictionary), 1)
    codes = models.indices.to_numpy(zero_copy_only=False)[chosen].astype(np.int64) * width
    codes += versions.indices.to_numpy(zero_copy_only=False)[chosen]
    for code, rows in zip(*np.unique(codes, return_counts=True), strict=True):
        model = models.dictionary[int(code) // width].as_py()
        yield (model, versions.dictionary[int(code) % width].as_py()), int(rows)
