"""From answers to numbers for each unit: what is measured, by which unit, for which version."""

import dataclasses
import pathlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from vision.errors import UserError, check_choice, shown
from vision.monitoring.abtest.answers import Answers
from vision.monitoring.abtest.table import Table, columns_of, read_columns
from vision.monitoring.labels import Labels, read_labels
from vision.monitoring.log import Log
from vision.reference import appearance
from vision.reference.features import NAMES

ACCURACY = "accuracy"
PARTS = 65_536  # rows whose labels are looked up at a time


class Measure(NamedTuple):
    """A number for each row of the answers.

    Attributes:
        values: float64 (N,); NaN where it is not known.
        by_request: whether it is one number for each request, repeated for its images.
    """

    values: np.ndarray
    by_request: bool


class Units(NamedTuple):
    """What was measured of each unit.

    Attributes:
        rows: integers (K,), values in the unit; 0 if nothing was measured.
        totals: float64 (K,), their sum.
        covariates: float64 (K,), the sum of the same rows' covariates; zeros without one.
        is_new: bool (K,), whether the new version answered.
        seconds: float64 (K,), when the first of its answers was given.
        answers: integers (K,), values that there would be if all were known.
    """

    rows: np.ndarray
    totals: np.ndarray
    covariates: np.ndarray
    is_new: np.ndarray
    seconds: np.ndarray
    answers: np.ndarray

    def measured(self) -> "Units":
        """Returns the units with values."""
        return Units(*(column[self.rows > 0] for column in self))


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where measures come from.

    Attributes:
        labels: the labels; None without --labels.
        table: columns by request; None without --table.
        columns: names of all of the table's columns.
    """

    labels: Labels | None = None
    table: Table | None = None
    columns: Sequence[str] = ()


def open_sources(
    labels: pathlib.Path | None, table: pathlib.Path | None, measures: Sequence[str], unit: str = ""
) -> Sources:
    """Returns where measures come from; only the columns that are needed are read.

    Args:
        labels: file or folder of labels; None if there is none.
        table: file of columns by request; None if there is none.
        measures: names of the measures, and of the covariate.
        unit: column of the table that names each request's unit; "" for the request itself.

    Raises:
        UserError: a measure or the unit is not a column of log or table, or a file cannot be read.
    """
    columns = columns_of(table) if table else []
    twice = sorted(set(columns) & {ACCURACY, *NAMES})
    if twice:
        raise UserError(f"--table {table}: column {twice[0]!r} is a measure of the log: rename it")
    for name in measures:
        check_choice("the measure", name, (ACCURACY, *NAMES, *columns), _hint(table))
        if name == ACCURACY and labels is None:
            raise UserError("the measure accuracy needs labels: give --labels FILE, or --measure")
    if unit:
        check_choice("--unit", unit, columns, _hint(table))
    return Sources(
        read_labels(labels) if labels else None,
        read_columns(table, [name for name in measures if name in columns], [unit] if unit else [])
        if table
        else None,
        columns,
    )


def log_columns(measures: Sequence[str]) -> list[str]:
    """Returns the columns of the log that measures need."""
    return [name for name in NAMES if name in measures]


def check_covariate(name: str, judged: Collection[str]) -> None:
    """Raises `UserError` if a covariate depends on the version that answered.

    Args:
        name: of the covariate.
        judged: names of the measure that decides and of the guardrails, which a version may change.
    """
    if name in judged:
        raise UserError(
            f"--covariate {name} is judged as a measure too, so CUPED would remove the version's "
            "own effect: give something that was known before the answer"
        )
    if name == ACCURACY or (name in NAMES and name not in appearance.NAMES):
        raise UserError(
            f"--covariate {name} is part of the answer, which the version decides: give something "
            "that was known before, such as brightness or a column of --table"
        )


def measure(name: str, answers: Answers, sources: Sources, log: Log) -> Measure:
    """Returns a measure of every row.

    Args:
        name: of the measure: "accuracy", a column of the log or one of the table.
        answers: the rows.
        sources: where measures come from.
        log: that the rows are from, for messages.

    Raises:
        UserError: no label, or no row of the table, is of any of the requests.
    """
    if name == ACCURACY:
        assert sources.labels is not None
        return Measure(_is_right(answers, sources.labels, log), by_request=False)
    if name in answers.numbers:
        return Measure(answers.numbers[name], by_request=False)
    assert sources.table is not None
    places = _table_places(answers, sources.table, log)
    by_request = np.append(sources.table.numbers[name], np.nan)[places]  # -1 is the last: NaN
    return Measure(by_request[answers.request], by_request=True)


def unit_codes(answers: Answers, sources: Sources, unit: str, log: Log) -> np.ndarray:
    """Returns the unit of every row, integers (N,); -1 if it is not known.

    Args:
        answers: the rows.
        sources: where the units' names come from.
        unit: column of the table; "" if the request is the unit.
        log: that the rows are from, for messages.
    """
    if not unit:
        return answers.request
    assert sources.table is not None
    names, codes = np.unique(sources.table.texts[unit].astype(str), return_inverse=True)
    codes = np.where(names[codes] == "", -1, codes)
    places = _table_places(answers, sources.table, log)
    return np.append(codes, -1)[places][answers.request]


def group(
    answers: Answers, codes: np.ndarray, values: Measure, covariate: Measure | None = None
) -> tuple[Units, int]:
    """Sums the answers that were given by unit.

    Args:
        answers: the rows; those that were only logged are left out.
        codes: (N,), see `unit_codes`.
        values: what is measured.
        covariate: what was certain before; rows without it are not measured.

    Returns:
        The units, and how many others were answered by both versions and are left out.
    """
    rows = np.flatnonzero(~answers.shadow & (codes >= 0))
    _, unit = np.unique(codes[rows], return_inverse=True)
    size = int(unit.max(initial=-1)) + 1
    is_new = answers.is_new[rows]
    has_new = np.bincount(unit, is_new, size) > 0
    has_old = np.bincount(unit, ~is_new, size) > 0
    seconds = np.full(size, np.inf)
    np.minimum.at(seconds, unit, answers.seconds[rows])
    taken = values.values[rows]
    given = np.zeros(len(rows)) if covariate is None else covariate.values[rows]
    if values.by_request:  # one number for each request, whose images share it
        _, first, request = np.unique(answers.request[rows], return_index=True, return_inverse=True)
        given = _mean(given, request)
        taken = taken[first]
        unit = unit[first]
    is_known = ~np.isnan(taken) & ~np.isnan(given)
    units = Units(
        np.bincount(unit[is_known], minlength=size),
        np.bincount(unit[is_known], taken[is_known], size),
        np.bincount(unit[is_known], given[is_known], size),
        has_new,
        seconds,
        np.bincount(unit, minlength=size),
    )
    single = has_new != has_old
    return Units(*(column[single] for column in units)), int((~single).sum())


def is_binary(answers: Answers, values: Measure) -> bool:
    """Returns whether all of a measure's values are 0 or 1, so that its mean is a share."""
    return bool(np.isin(values.values[~np.isnan(values.values)], (0, 1)).all())


def _mean(values, group_codes):
    """Returns the mean of each group's values that are known; NaN if none is."""
    is_known = ~np.isnan(values)
    size = int(group_codes.max(initial=-1)) + 1
    counts = np.bincount(group_codes[is_known], minlength=size)
    sums = np.bincount(group_codes[is_known], values[is_known], size)
    return np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)


def _is_right(answers, labels, log):
    """Returns (N,): 1 if an answer is right, 0 if it is wrong, NaN without a label."""
    import pyarrow

    labels.is_matched[:] = False
    truth = np.full(len(answers.request), -1)
    for start in range(0, len(truth), PARTS):
        part = slice(start, start + PARTS)
        ids = answers.ids.take(pyarrow.array(answers.request[part]))
        places = labels.places_of(ids, pyarrow.array(answers.image[part]))
        truth[part] = np.append(labels.truth, -1)[places]
    labels.check_matched(log)
    of_label = {name: place for place, name in enumerate(labels.classes)}
    predicted = np.array([of_label.get(name, -2) for name in answers.classes])[answers.predicted]
    is_labeled = truth >= 0
    if not np.isin(truth[is_labeled], predicted).any():
        raise UserError(
            f"{labels.source}: no version has ever answered with a class of the labels, such as "
            f"{shown(labels.classes[0])}; the answers are {shown(answers.classes[0])}, ...: spell "
            "the labels as in the log's column class"
        )
    return np.where(is_labeled, (truth == predicted).astype(np.float64), np.nan)


def _table_places(answers, table, log):
    """Returns each request's place in a table, (K,), -1 if it has none."""
    places = table.places_of(answers.ids)
    if (places < 0).all():
        raise UserError(
            f"--table {table.source}: none of {len(table.ids):,} rows belongs to a request of the "
            f"two versions in --log {log.directory}, starting with {shown(table.ids[0].as_py())}"
        )
    return places


def _hint(table):
    return "" if table else "; columns by request, such as latencies, come from --table FILE"
