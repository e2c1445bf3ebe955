"""The prediction log, in rotating Parquet files for monitoring.

`pandas.read_parquet(DIRECTORY)` reads them all. A row is an image:

time         UTC, microseconds
id           the request's identifier
model        the model's name
version      the version that answered
shadow       whether the answer was only logged
image        its index in the request, from 0
class        the most probable class
confidence   the class's probability, float32
sketch       16 float16: `sketch` of the embedding
sha256       of the image as it came, encoded or pixels; null unless --log-hashes

The files' metadata has the versions of the format and of the sketch, `vision_predictions` and
`sketch`. A file is either complete or absent: it is written under a hidden name and then renamed. A
crash loses the rows that are not in a file yet.
"""

import collections
import dataclasses
import datetime
import functools
import hashlib
import itertools
import os
import pathlib
import time
from typing import NamedTuple

import numpy as np

from vision.errors import UserError
from vision.serving.request import Answer, Request
from vision.support.extras import require

FORMAT = "1"
SKETCH = "sign/16/1"
DIMENSIONS = 16
# Approximate bytes of answers that are not rows yet; a disk that hangs must not fill the memory.
WAITING = 128 * 2**20
IMAGES = 64 * 2**20  # approximate bytes of images that are kept to be hashed
OBJECTS = 1024  # bytes that an answer takes besides its arrays


def sketch(embeddings: np.ndarray) -> np.ndarray:
    """Returns float16 (N, 16), a random projection of embeddings (N, D), the same for equal D.

    Distances between embeddings, and so drift, survive it on average, while a row takes 32 bytes
    instead of up to 8 KiB and reveals no image. It is linear: the mean and the covariance of a
    bundle's reference can be projected too. The matrix holds signs, taken from the bits of
    SHAKE-256: no random generator has to stay the same for files of different years to be
    comparable. Achlioptas 2003, "Database-friendly random projections: Johnson-Lindenstrauss with
    binary coins", theorem 1.1.
    """
    projected = np.asarray(embeddings, np.float32) @ _signs(embeddings.shape[1])
    largest = np.finfo(np.float16).max
    return np.clip(projected, -largest, largest).astype(np.float16)


@functools.lru_cache(maxsize=64)
def _signs(size):
    """Returns float32 (size, 16) of 1/4 and -1/4, so that squared lengths are kept on average."""
    data = hashlib.shake_256(f"{SKETCH}/{size}".encode()).digest(size * DIMENSIONS // 8)
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(size, DIMENSIONS)
    return (bits.astype(np.float32) * 2 - 1) / np.sqrt(DIMENSIONS).astype(np.float32)


class _Entry(NamedTuple):
    """An answer that waits to become rows; `images` are kept only if they are to be hashed."""

    seconds: float  # since the epoch
    id: str
    answer: Answer
    shadow: bool
    images: np.ndarray | list[bytes] | None


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
        self._schema = _schema(pyarrow)
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
        images = request.images if self._hashes and not self._image_bytes.is_full() else None
        self._answer_bytes.taken += _answer_size(answer)
        self._image_bytes.taken += _images_size(images)
        # Heat maps can be larger than all the rest, and are not logged.
        answer = dataclasses.replace(answer, heat=None)
        self._waiting.append(_Entry(time.time(), request.id, answer, shadow, images))

    def write(self, everything: bool = False) -> None:
        """Writes the files that are full or due; with `everything`, all rows."""
        self._take_up()
        is_due = everything or (self._oldest and time.monotonic() - self._oldest >= self._seconds)
        while self._batches and (is_due or sum(map(len, self._batches)) >= self._rows):
            table = self._arrow.Table.from_batches(self._batches)
            remainder = table.slice(self._rows).combine_chunks()
            self._batches = remainder.to_batches() if len(remainder) else []
            self._oldest = time.monotonic() if self._batches else 0.0
            self._write_file(table.slice(0, self._rows))

    def _take_up(self):
        """Turns what `put` has left into rows and frees it: it takes a hundred times their
        memory."""
        entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not entries:
            return
        self._oldest = self._oldest or time.monotonic()
        try:
            batch = self._arrow.RecordBatch.from_pydict(self._columns(entries), schema=self._schema)
        except Exception:
            self.lost += sum(len(entry.answer.probabilities) for entry in entries)
            raise
        finally:
            self._answer_bytes.freed += sum(_answer_size(entry.answer) for entry in entries)
            self._image_bytes.freed += sum(_images_size(entry.images) for entry in entries)
        self._batches.append(batch)

    def _columns(self, entries):
        columns = {name: [] for name in self._schema.names}
        for seconds, request_id, answer, shadow, images in entries:
            count = len(answer.probabilities)
            best = answer.probabilities.argmax(1)
            columns["time"] += [int(seconds * 1e6)] * count
            columns["id"] += [request_id] * count
            columns["model"] += [answer.model] * count
            columns["version"] += [answer.version] * count
            columns["shadow"] += [shadow] * count
            columns["image"] += range(count)
            columns["class"] += [answer.classes[i] for i in best]
            columns["confidence"] += answer.probabilities[np.arange(count), best].tolist()
            columns["sha256"] += [None] * count if images is None else map(_digest, images)
        embeddings = (entry.answer.embedding for entry in entries)
        # one group, unless models with different embeddings are mixed
        groups = itertools.groupby(embeddings, key=lambda embedding: embedding.shape[1])
        sketches = [sketch(np.concatenate(list(group))).ravel() for _, group in groups]
        flat = self._arrow.array(np.concatenate(sketches))
        columns["sketch"] = self._arrow.FixedSizeListArray.from_arrays(flat, DIMENSIONS)
        return columns

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


class _ByteBudget:
    """Counts waiting bytes without a lock: the event loop adds to `taken`, the thread to
    `freed`."""

    def __init__(self, limit):
        self._limit = limit
        self.taken = 0
        self.freed = 0

    def is_full(self):
        return self.taken - self.freed >= self._limit


def _schema(arrow):
    kinds = {
        "time": arrow.timestamp("us", tz="UTC"),
        "id": arrow.string(),
        "model": arrow.string(),
        "version": arrow.string(),
        "shadow": arrow.bool_(),
        "image": arrow.int32(),
        "class": arrow.string(),
        "confidence": arrow.float32(),
        "sketch": arrow.list_(arrow.float16(), DIMENSIONS),
        "sha256": arrow.string(),
    }
    return arrow.schema(kinds, metadata={"vision_predictions": FORMAT, "sketch": SKETCH})


def _write(path, data):
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


def _answer_size(answer):
    """Returns the approximate bytes that a waiting answer takes."""
    return OBJECTS + answer.probabilities.nbytes + answer.embedding.nbytes


def _images_size(images):
    """Returns the bytes of a request's images; 0 for None."""
    if images is None:
        return 0
    return images.nbytes if isinstance(images, np.ndarray) else sum(map(len, images))


def _digest(image):
    data = image if isinstance(image, bytes) else np.ascontiguousarray(image)
    return hashlib.sha256(data).hexdigest()
