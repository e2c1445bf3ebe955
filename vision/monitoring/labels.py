"""Labels that come late, and the rows of a prediction log that they are of.

    labels = read_labels("labels.csv", bundle.classes)
    for answers in join(open_log("predictions"), labels):
        ...  # `Answers` of at most 65,536 rows; `answers.labeled()` are those with a label

A file of labels has a row for each image: `id` is the request's identifier as the log has it,
`label` the name of the class; `image` is the image's index in the request, 0 if the column is
missing; `time` is when the label came, in seconds since the epoch or as ISO 8601. The labels are
held in memory, the log streams.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vision.data.classes import check_known
from vision.errors import UserError, shown
from vision.monitoring.label_files import files_of, read_table
from vision.monitoring.log import Log, seconds_of
from vision.reference.features import NAMES
from vision.reference.log_format import loggable

KEYS = ["time", "id", "bundle", "model", "version", "shadow", "image", "class", "confidence"]


class Answers(NamedTuple):
    """Rows of a prediction log, with the true classes as far as labels say them.

    Attributes:
        seconds: float64 (N,), when the answer was given, since the epoch.
        ids: text (N,), the request's identifier.
        images: int32 (N,), the image's index in the request.
        models, versions: text (N,).
        shadow: bool (N,), whether the answer was only logged.
        predicted: int64 (N,), places in the labels' `classes`; -1 for a class that is not there.
        truth: int64 (N,), the same of the true class; -1 for an image without a label.
        labeled_at: float64 (N,), when the label came, since the epoch; NaN if nobody says.
        labels: int64 (N,), the label's place among the labels; -1 for an image without one.
        confidence: float32 (N,), the predicted class's probability.
        values: float32 (N, F), the features that `join` was asked for; NaN if unknown.
    """

    seconds: np.ndarray
    ids: np.ndarray
    images: np.ndarray
    models: np.ndarray
    versions: np.ndarray
    shadow: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray
    labeled_at: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    values: np.ndarray

    def part(self, chosen: np.ndarray) -> "Answers":
        """Returns some rows: bool (N,), or integers, their places."""
        return Answers(*(column[chosen] for column in self))

    def labeled(self) -> "Answers":
        """Returns the rows that have a label."""
        return self.part(self.truth >= 0)


@dataclasses.dataclass
class Labels:
    """Labels by request and index of the image.

    Attributes:
        source: the file or folder, for messages.
        classes: names of the classes.
        keys: PyArrow array of text (L,), all different: see `_keys`.
        truth: int64 (L,), places in `classes`.
        seconds: float64 (L,), when each label came, since the epoch; NaN if nobody says.
        blank: rows whose label is empty, which were left out.
        is_matched: bool (L,), whether a row of the log was met that the label is of; complete once
            the log has been read to its end.
    """

    source: str
    classes: tuple[str, ...]
    keys: Any
    truth: np.ndarray
    seconds: np.ndarray
    blank: int = 0
    is_matched: np.ndarray = dataclasses.field(init=False)
    _places: dict[str, int] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.is_matched = np.zeros(len(self.truth), bool)
        # PyArrow's index_in would hash all labels again for each batch
        self._places = {key: place for place, key in enumerate(self.keys.to_pylist())}

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def unmatched(self) -> int:
        """Labels of which no row of the log was met."""
        return int((~self.is_matched).sum())

    def places_of(self, ids: Any, images: Any) -> np.ndarray:
        """Returns each row's place among the labels, int64 (N,); -1 if it has none.

        Args:
            ids: PyArrow array of text (N,), requests' identifiers.
            images: PyArrow array of integers (N,), indices in the request.
        """
        if not len(self):
            return np.full(len(ids), -1)
        own = _keys(ids, images).to_pylist()
        places = np.array([self._places.get(key, -1) for key in own], np.int64)
        self.is_matched[places[places >= 0]] = True
        return places

    def check_matched(self, log: Log) -> None:
        """Raises `UserError` if there are labels and none is of a row that was met."""
        if len(self) and not self.is_matched.any():
            example = self.keys[0].as_py().rpartition("/")[0]
            raise UserError(
                f"{self.source}: none of {len(self):,} labels belongs to a request in --log "
                f"{log.directory}, starting with {shown(example)}: id must be the request's "
                "identifier, as in the log's column id"
            )


def no_labels(classes: Sequence[str]) -> Labels:
    """Returns `Labels` of no image, with which `join` gives all rows without a true class."""
    import pyarrow

    keys = pyarrow.array([], pyarrow.string())
    return Labels("", loggable(classes), keys, np.zeros(0, np.int64), np.zeros(0))


def read_labels(
    path: pathlib.Path | str,
    classes: Sequence[str] | None = None,
    new_classes: Sequence[str] | None = None,
) -> Labels:
    """Returns the labels of a CSV or Parquet file, or of all such files in a folder.

    An image may be labeled twice if both labels say the same; the earlier time counts. Rows with an
    empty label are counted and left out.

    Args:
        path: the file or folder.
        classes: names of the classes; None takes those of the labels as they are, sorted.
        new_classes: names of further classes, which come after those; None if the user has no way
            to name any.

    Raises:
        UserError: a file cannot be read, is not UTF-8, has no rows, or not the columns `id` and
            `label`; a class is unknown; an image has two different labels.
    """
    import pyarrow.compute

    tables = [(file, read_table(file)) for file in files_of(pathlib.Path(path))]
    blank = 0
    for place, (file, table) in enumerate(tables):
        kept = table.filter(pyarrow.compute.not_equal(table["label"], ""))
        blank += len(table) - len(kept)
        tables[place] = (file, kept)
    if classes is None:
        classes = sorted({name for _, table in tables for name in _names(table)})
    names = loggable((*classes, *(new_classes or ())))
    for file, table in tables:
        try:
            check_known(_names(table), names, f"{file}, column label")
        except UserError as error:
            hint = "" if new_classes is None else "; name new ones with --new-classes"
            raise UserError(f"{error}{hint}") from None
    joined = pyarrow.concat_tables([table for _, table in tables]).combine_chunks()
    if not len(joined):
        raise UserError(f"--labels {path}: all {blank:,} labels are empty")
    return _unique(str(path), names, joined, blank)


def join(
    log: Log,
    labels: Labels,
    fingerprint: str = "",
    features: Sequence[str] = NAMES,
    others: collections.Counter | None = None,
) -> Iterator[Answers]:
    """Yields the rows of a log, in the order of writing, with the true classes of those labeled.

    Args:
        log: the log.
        labels: the labels; their counts are those of the latest call.
        fingerprint: a bundle's, whose rows alone are wanted; "" for all. Labels of others' rows
            count as matched.
        features: names of `vision.reference.features.NAMES` whose values are wanted.
        others: counts the rows of other bundles, by (model, version).

    Raises:
        UserError: a file of the log is damaged; no label is of a row of the log, which is known at
            its end.
    """
    labels.is_matched[:] = False
    places = {name: place for place, name in enumerate(labels.classes)}
    columns = [*KEYS, *(name for name in features if name not in KEYS)]
    for batch in log.batches(columns):
        matches = labels.places_of(batch.column("id"), batch.column("image"))
        rows = np.arange(len(batch))
        if fingerprint:
            is_own = _texts(batch, "bundle") == fingerprint
            rows = np.flatnonzero(is_own)
            if others is not None and len(rows) < len(batch):
                names = (_texts(batch, column)[~is_own] for column in ("model", "version"))
                others.update(zip(*names, strict=True))
        if len(rows):
            yield _answers(batch, rows, labels, matches[rows], places, features)
    labels.check_matched(log)


def _answers(batch, rows, labels, own, places, features):
    """Returns the `Answers` in some rows (N,) of a batch; `own` (N,) are their labels' places."""
    has_label = own >= 0
    truth = np.full(len(rows), -1, np.int64)
    truth[has_label] = labels.truth[own[has_label]]
    labeled_at = np.full(len(rows), np.nan)
    labeled_at[has_label] = labels.seconds[own[has_label]]
    classes = batch.column("class")
    by_code = np.array([places.get(name, -1) for name in classes.dictionary.to_pylist()], np.int64)
    values = [_numbers(batch, name)[rows] for name in features]
    return Answers(
        seconds=seconds_of(batch)[rows],
        ids=_numbers(batch, "id")[rows],
        images=_numbers(batch, "image")[rows],
        models=_texts(batch, "model")[rows],
        versions=_texts(batch, "version")[rows],
        shadow=_numbers(batch, "shadow")[rows],
        predicted=by_code[_numbers(classes.indices)][rows],
        truth=truth,
        labeled_at=labeled_at,
        labels=own,
        confidence=_numbers(batch, "confidence")[rows],
        values=np.stack(values, 1) if values else np.zeros((len(rows), 0), np.float32),
    )


def _numbers(batch, name=None):
    column = batch if name is None else batch.column(name)
    return column.to_numpy(zero_copy_only=False)


def _texts(batch, name):
    """Returns text (N,) of a dictionary column."""
    column = batch.column(name)
    names = np.array(column.dictionary.to_pylist(), object)
    return names[_numbers(column.indices)]


def _keys(ids, images):
    """Returns an array of text (N,) that names an image: ID/INDEX."""
    import pyarrow.compute

    text = pyarrow.string()
    return pyarrow.compute.binary_join_element_wise(ids.cast(text), images.cast(text), "/")


def _names(table):
    """Returns the names of a table's classes, sorted."""
    return sorted(table["label"].unique().to_pylist())


def _unique(source, classes, table, blank):
    """Returns the `Labels` in a table, each image once."""
    truth = _places(table["label"], classes)
    keys = _keys(table["id"], table["image"]).combine_chunks().dictionary_encode()
    own = keys.indices.to_numpy()
    first = np.unique(own, return_index=True)[1]
    differs = np.flatnonzero(truth != truth[first][own])
    if len(differs):
        second = int(differs[0])
        name, _, image = keys[second].as_py().rpartition("/")
        earlier, later = (shown(classes[truth[place]]) for place in (first[own[second]], second))
        raise UserError(
            f"{source}: image {image} of request {shown(name)} has two labels, {earlier} and "
            f"{later}: keep one"
        )
    earliest = np.full(len(first), np.inf)
    np.fmin.at(earliest, own, table["time"].to_numpy())
    earliest[np.isinf(earliest)] = np.nan
    return Labels(source, classes, keys.dictionary, truth[first], earliest, blank)


def _places(column, classes):
    """Returns the places of a column's classes, int64 (N,)."""
    places = {name: place for place, name in enumerate(classes)}
    codes = column.dictionary_encode().combine_chunks()
    by_code = np.array([places[name] for name in codes.dictionary.to_pylist()], np.int64)
    return by_code[codes.indices.to_numpy()]
