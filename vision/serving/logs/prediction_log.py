"""The prediction log, in rotating Parquet files for monitoring.

`vision.reference.log_format` describes its rows, `vision.monitoring.log` reads them. A file is
either complete or absent: it is written under a hidden name and then renamed. A crash loses the
rows that are not in a file yet.
"""

import collections
import dataclasses
import datetime
import hashlib
import itertools
import os
import pathlib
import random
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vision.errors import UserError
from vision.reference import appearance, features, log_format
from vision.reference.sketch import DIMENSIONS, sketch
from vision.serving.logs.drift_metrics import DriftMetrics, Rows
from vision.serving.logs.kept_images import KeepRules, KeptImages
from vision.serving.request import Answer, Request
from vision.serving.settings import Settings
from vision.support.extras import require

# Approximate bytes of answers that are not rows yet; a disk that hangs must not fill the memory.
WAITING = 128 * 2**20
IMAGES = 64 * 2**20  # approximate bytes of images that wait to be hashed or kept
KEEP_NONE = KeepRules()
OBJECTS = 1024  # bytes that an answer takes besides its arrays


class _Entry(NamedTuple):
    """An answer that waits to become rows, with its images only as far as they are needed.

    Attributes:
        seconds: when it was given, since the epoch.
        id: the request's identifier.
        answer: the answer.
        shadow: whether it was only logged.
        images: those to be hashed, all or none.
        kept: {index: image} of those to be kept.
    """

    seconds: float
    id: str
    answer: Answer
    shadow: bool
    images: Sequence[bytes | np.ndarray] | np.ndarray | None
    kept: dict[int, bytes | np.ndarray]


class PredictionLog:
    """Writes predictions to files; `put` is for the event loop, all else for one thread.

    Args:
        directory: directory of the files, created if missing.
        rows: rows in a file, at most.
        seconds: age at which a waiting row is written, together with the others.
        files: number of files to keep, the latest of all servers that share the directory; 0 keeps
            all. Files named for a future time, by a clock that was ahead, are neither removed nor
            counted.
        hashes: whether images are hashed.
        keep: which images are kept.
        drift: gets the rows, too; None if nobody wants them.

    Attributes:
        lost: rows that are in no file because a write failed or did not keep up.

    Raises:
        UserError: PyArrow is missing, or the directory cannot be written to.
    """

    def __init__(
        self,
        directory: pathlib.Path | str,
        rows: int,
        seconds: float,
        files: int = 0,
        hashes: bool = False,
        keep: KeepRules = KEEP_NONE,
        drift: DriftMetrics | None = None,
    ):
        require("--prediction-log", "serving", only=("pyarrow",))
        import pyarrow.parquet

        self._arrow = pyarrow
        self._directory = pathlib.Path(directory)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            _write(self._directory / f".{os.getpid()}.tmp", b"").unlink()
        except OSError as error:
            raise UserError(
                f"--prediction-log {directory} cannot be written to: {error.strerror}"
            ) from error
        self._rows = rows
        self._seconds = seconds
        self._files = files
        self._hashes = hashes
        self._schema = log_format.schema(pyarrow)
        self._share = keep.share
        self._kept_images = KeptImages(self._directory, keep)
        self._drift = drift
        self._random = random.Random()
        self._waiting: collections.deque[_Entry] = collections.deque()
        self._batches: list = []  # of rows
        self._oldest = 0.0  # when the first of them was taken up, by `monotonic`; 0 if none
        self._numbers = itertools.count()
        self._answer_bytes = _ByteBudget(WAITING)
        self._image_bytes = _ByteBudget(IMAGES)
        self.lost = 0

    def put(self, request: Request, answer: Answer, shadow: bool) -> None:
        """Takes an answer; takes some microseconds and never waits."""
        if self._answer_bytes.is_full():
            self.lost += len(answer.probabilities)
            return
        sent = request.images if answer.tiles is None else answer.tiles
        images = None
        kept = {}
        if (self._hashes or self._share) and not self._image_bytes.is_full():
            images = sent if self._hashes else None
            kept = self._draw(sent, answer, shadow)
        self._answer_bytes.taken += _answer_size(answer)
        self._image_bytes.taken += _images_size(images, kept)
        # Heat maps and tiles can be larger than all the rest, and are not logged.
        answer = dataclasses.replace(answer, heat=None, tiled=None, tiles=None)
        self._waiting.append(_Entry(time.time(), request.id, answer, shadow, images, kept))

    @property
    def images_lost(self) -> int:
        """Images that were chosen to be kept and could not be written."""
        return self._kept_images.failed

    def _draw(self, images, answer, shadow):
        """Returns {index: image} of the images to keep."""
        if not self._share or shadow:  # the serving version keeps it, or nobody
            return {}
        count = len(answer.probabilities)
        chosen = [i for i in range(count) if self._random.random() < self._share]
        # A view of one image would hold all of its request.
        is_array = isinstance(images, np.ndarray)
        return {i: images[i].copy() if is_array else images[i] for i in chosen}

    def write(self, everything: bool = False) -> None:
        """Writes the files that are full or due; with `everything`, all rows."""
        failure = self._take_up()
        if self._share:  # without --keep-images, how long images stay is not said
            self._kept_images.sweep()
        is_due = everything or (self._oldest and time.monotonic() - self._oldest >= self._seconds)
        while self._batches and (is_due or sum(map(len, self._batches)) >= self._rows):
            table = self._arrow.Table.from_batches(self._batches)
            remainder = table.slice(self._rows).combine_chunks()
            self._batches = remainder.to_batches() if len(remainder) else []
            self._oldest = time.monotonic() if self._batches else 0.0
            self._write_file(table.slice(0, self._rows))
        if failure is not None:
            raise failure

    def _take_up(self):
        """Turns what `put` has left into rows and frees it: it takes a hundred times their
        memory.

        Returns the error of the drift metrics, which must not cost a row; None if there was none.
        """
        entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not entries:
            return None
        self._oldest = self._oldest or time.monotonic()
        try:
            rows, versions = _describe(entries)
            columns = self._columns(entries, rows)
            batch = self._arrow.RecordBatch.from_pydict(columns, schema=self._schema)
        except Exception:
            self.lost += sum(len(entry.answer.probabilities) for entry in entries)
            raise
        finally:
            self._answer_bytes.freed += sum(_answer_size(entry.answer) for entry in entries)
            self._image_bytes.freed += sum(
                _images_size(entry.images, entry.kept) for entry in entries
            )
        self._batches.append(batch)
        if self._drift is not None:
            try:
                for answer, places in versions:
                    self._drift.add(answer, Rows(*(array[places] for array in rows)))
            except Exception as error:
                return error
        return None

    def _columns(self, entries, rows):
        """Returns {name of a column: its values}, and keeps images."""
        columns = {name: [] for name in self._schema.names}
        best = iter(rows.classes.tolist())
        for entry in entries:
            answer = entry.answer
            count = len(answer.probabilities)
            labels = [answer.classes[i] for i in itertools.islice(best, count)]
            description = answer.description
            columns["time"] += [int(entry.seconds * 1e6)] * count
            columns["id"] += [entry.id] * count
            columns["model"] += [answer.model] * count
            columns["version"] += [answer.version] * count
            columns["bundle"] += [description.fingerprint if description else ""] * count
            columns["shadow"] += [entry.shadow] * count
            columns["unsure"] += [None] * count if answer.unsure is None else answer.unsure.tolist()
            columns["image"] += range(count)
            columns["class"] += labels
            columns["sha256"] += (
                [None] * count if entry.images is None else map(_digest, entry.images)
            )
            columns["kept"] += self._keep(entry, labels)
        for name, numbers in zip(features.NAMES, rows.values.T, strict=True):
            # NaN becomes null
            columns[name] = self._arrow.array(np.ascontiguousarray(numbers), from_pandas=True)
        flat = self._arrow.array(rows.sketches.ravel())
        columns["sketch"] = self._arrow.FixedSizeListArray.from_arrays(flat, DIMENSIONS)
        return columns

    def _keep(self, entry, labels):
        """Keeps the images that were chosen; returns their names, None for the others."""
        names = [None] * len(labels)
        for index, image in entry.kept.items():
            name = (entry.seconds, entry.id, index)
            names[index] = self._kept_images.keep(entry.answer.model, labels[index], name, image)
        return names

    def _write_file(self, table):
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = self._directory / f"predictions-{now}-{os.getpid()}-{next(self._numbers):06}.parquet"
        # readers of the directory skip names that begin with a dot
        hidden = path.with_name(f".{path.name}.tmp")
        data = self._arrow.BufferOutputStream()
        self._arrow.parquet.write_table(table, data, compression="zstd")
        try:
            os.replace(_write(hidden, data.getvalue()), path)
        except OSError:
            self.lost += len(table)
            hidden.unlink(missing_ok=True)
            raise
        if self._files:
            # If files of a clock that was ahead counted as the latest, this one would be removed in
            # their place.
            past_files = sorted(
                file
                for file in self._directory.glob("predictions-*.parquet")
                if file.name <= path.name
            )
            for file in past_files[: -self._files]:
                file.unlink(missing_ok=True)


def open_log(settings: Settings, drift: DriftMetrics | None = None) -> PredictionLog:
    """Returns the `PredictionLog` that the server's settings ask for."""
    return PredictionLog(
        settings.prediction_log,
        settings.prediction_rows,
        settings.prediction_minutes * 60,
        settings.prediction_files,
        hashes=settings.log_hashes,
        keep=KeepRules(
            settings.keep_images,
            settings.keep_per_class,
            int(settings.keep_gib * 2**30),
            settings.keep_days * 86_400,
        ),
        drift=drift,
    )


class _ByteBudget:
    """Counts waiting bytes without a lock: the event loop adds to `taken`, the thread to
    `freed`."""

    def __init__(self, limit):
        self._limit = limit
        self.taken = 0
        self.freed = 0

    def is_full(self):
        return self.taken - self.freed >= self._limit


def _describe(entries):
    """Returns (`Rows` of all answers, [(an answer, places of rows)] for each version).

    Many answers are described at a time: each NumPy call takes longer than the numbers of one.
    """
    counts = [len(entry.answer.probabilities) for entry in entries]
    ends = np.cumsum(counts)
    groups = {}
    for place, entry in enumerate(entries):
        groups.setdefault(_kind(entry.answer), []).append(place)
    rows = Rows(
        np.empty((ends[-1], len(features.NAMES)), np.float32),
        np.empty(ends[-1], np.int64),
        np.empty((ends[-1], DIMENSIONS), np.float16),
        np.repeat([entry.seconds for entry in entries], counts),
    )
    versions = []
    for members in groups.values():
        answers = [entries[place].answer for place in members]
        places = np.concatenate([np.arange(ends[i] - counts[i], ends[i]) for i in members])
        best, numbers = features.outputs(np.concatenate([a.probabilities for a in answers]))
        rows.values[places] = np.concatenate([_looks(answers), numbers], 1)
        rows.classes[places] = best
        rows.sketches[places] = sketch(np.concatenate([a.embedding for a in answers]))
        versions.append((answers[0], places))
    return rows, versions


def _kind(answer):
    """Returns what answers have in common whose arrays can be joined."""
    fingerprint = answer.description.fingerprint if answer.description else ""
    shapes = answer.probabilities.shape[1], answer.embedding.shape[1]
    return answer.model, answer.version, fingerprint, shapes


def _looks(answers):
    """Returns float32 (N, 7), what the images of a version's answers are like; NaN if that is
    unknown. Measures those that have yet to be."""
    waiting = [pixels for pixels in map(_pixels, answers) if pixels is not None]
    measured = iter(())
    if waiting:
        ends = np.cumsum([len(pixels) for pixels in waiting])
        measured = iter(np.split(appearance.measure_all(np.concatenate(waiting)), ends[:-1]))
    looks = []
    for answer in answers:
        if answer.description is None:
            unknown = (len(answer.probabilities), len(appearance.NAMES))
            looks.append(np.full(unknown, np.nan, np.float32))
        elif answer.description.pixels is None:
            looks.append(answer.description.looks)
        else:
            looks.append(next(measured))
    return np.concatenate(looks)


def _pixels(answer):
    """Returns the images of an answer that are yet to be measured; None if there are none."""
    return None if answer.description is None else answer.description.pixels


def _write(path, data):
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


def _answer_size(answer):
    """Returns the approximate bytes that a waiting answer takes."""
    pixels = _pixels(answer)
    waiting = 0 if pixels is None else pixels.nbytes
    return OBJECTS + answer.probabilities.nbytes + answer.embedding.nbytes + waiting


def _images_size(images, kept):
    """Returns the bytes of a request's images that wait: all of them, or those to be kept."""
    if isinstance(images, np.ndarray):
        return images.nbytes
    waiting = kept.values() if images is None else images
    return sum(len(image) if isinstance(image, bytes) else image.nbytes for image in waiting)


def _digest(image):
    data = image if isinstance(image, bytes) else np.ascontiguousarray(image)
    return hashlib.sha256(data).hexdigest()
