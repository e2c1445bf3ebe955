"""What was predicted, in rotating Parquet files, for monitoring: `pandas.read_parquet(DIRECTORY)`
reads them all.

A row is an image:

time         UTC, microseconds
id           of the request
model        its name
version      the one that answered
shadow       whether the answer was only logged
image        its place in the request, from 0
class        the most probable one
confidence   its probability, float32
sketch       16 float16: `sketch` of the embedding
sha256       of the image as it came, encoded or pixels; null unless --log-hashes

The file's metadata names the kinds of row and of sketch, `vision_predictions` and `sketch`. A file
is complete or not there: it is written under a hidden name and renamed. A crash loses what is not
in a file yet.
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

import numpy as np

from vision.errors import UserError

FORMAT = "1"
SKETCH = "sign/16/1"
DIMENSIONS = 16
# bytes of answers, about, that are not rows yet; a disk that hangs must not fill the memory
WAITING = 128 * 2**20
IMAGES = 64 * 2**20  # bytes of images, about, that are kept to be hashed
OBJECTS = 1024  # bytes that an answer takes beside its arrays


def sketch(embeddings):
    """Returns float16 (N, 16), a random projection of embeddings (N, D), the same one wherever D is
    the same.

    Distances between embeddings, and so drift, survive it on average, while a row takes 32 bytes
    instead of up to 8 KiB and gives no image back. It is linear: the mean and the covariance of a
    bundle's reference can be projected as well. The matrix is of signs, which are those of
    SHAKE-256's bits: no random generator has to stay the same for files of different years to be
    comparable. Achlioptas 2003, "Database-friendly random projections: Johnson-Lindenstrauss with
    binary coins", theorem 1.1.
    """
    found = np.asarray(embeddings, np.float32) @ _signs(embeddings.shape[1])
    largest = np.finfo(np.float16).max
    return np.clip(found, -largest, largest).astype(np.float16)


@functools.lru_cache(maxsize=64)
def _signs(size):
    """Returns float32 (size, 16) of 1/4 and -1/4, so that squared lengths are kept on average."""
    data = hashlib.shake_256(f"{SKETCH}/{size}".encode()).digest(size * DIMENSIONS // 8)
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(size, DIMENSIONS)
    return (bits.astype(np.float32) * 2 - 1) / np.sqrt(DIMENSIONS).astype(np.float32)


class PredictionLog:
    """Writes predictions to files; `put` on the event loop, all else in one thread.

    Args:
        directory: of the files; is made.
        rows: of a file, at most.
        seconds: after which a row that waits is written, with the others.
        files: that are kept, the latest of all servers that share the directory; 0 = all. Those
            that are named for a time to come, since a clock was ahead, are left alone and not
            counted.
        hashes: whether images are hashed.

    Attributes:
        lost: rows that are in no file since a write failed or did not keep up.

    Raises:
        UserError: PyArrow is missing, or the directory cannot be written to.
    """

    def __init__(self, directory, rows, seconds, files=0, hashes=False):
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise UserError("--prediction-log needs PyArrow: pip install pyarrow") from error
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
        self._waiting = collections.deque()
        self._batches = []
        self._oldest = 0.0
        self._numbers = itertools.count()
        self._answers = _Room(WAITING)
        self._images = _Room(IMAGES)
        self.lost = 0

    def put(self, request, answer, shadow):
        """Takes an `Answer` to a `Request`; takes some microseconds, and never waits."""
        if self._answers.is_full():
            self.lost += len(answer.probabilities)
            return
        images = request.images if self._hashes and not self._images.is_full() else None
        self._answers.taken += _size_of(answer)
        self._images.taken += _size(images)
        # Heat maps can be larger than all the rest, and are not logged.
        self._waiting.append(
            (time.time(), request.id, dataclasses.replace(answer, heat=None), shadow, images)
        )

    def write(self, everything=False):
        """Takes up what `put` has left, and writes the files that are full or due; with
        `everything`, all rows."""
        self._take_up()
        due = everything or (self._oldest and time.monotonic() - self._oldest >= self._seconds)
        while self._batches and (due or sum(map(len, self._batches)) >= self._rows):
            table = self._arrow.Table.from_batches(self._batches)
            rest = table.slice(self._rows).combine_chunks()
            self._batches = rest.to_batches() if len(rest) else []
            self._oldest = time.monotonic() if self._batches else 0.0
            self._write_file(table.slice(0, self._rows))

    def _take_up(self):
        """Makes rows of what `put` has left, and frees it: it takes a hundred times the room of its
        rows."""
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not taken:
            return
        self._oldest = self._oldest or time.monotonic()
        try:
            batch = self._arrow.RecordBatch.from_pydict(self._columns(taken), schema=self._schema)
        except Exception:
            self.lost += sum(len(answer.probabilities) for _, _, answer, _, _ in taken)
            raise
        finally:
            self._answers.freed += sum(_size_of(answer) for _, _, answer, _, _ in taken)
            self._images.freed += sum(_size(images) for *_, images in taken)
        self._batches.append(batch)

    def _columns(self, taken):
        columns = {name: [] for name in self._schema.names}
        for seconds, name, answer, shadow, images in taken:
            count = len(answer.probabilities)
            best = answer.probabilities.argmax(1)
            columns["time"] += [int(seconds * 1e6)] * count
            columns["id"] += [name] * count
            columns["model"] += [answer.model] * count
            columns["version"] += [answer.version] * count
            columns["shadow"] += [shadow] * count
            columns["image"] += range(count)
            columns["class"] += [answer.classes[i] for i in best]
            columns["confidence"] += answer.probabilities[np.arange(count), best].tolist()
            columns["sha256"] += (
                [None] * count if images is None else [_digest(image) for image in images]
            )
        embeddings = (answer.embedding for _, _, answer, _, _ in taken)
        # one, but for a mix of models
        groups = itertools.groupby(embeddings, key=lambda embedding: embedding.shape[1])
        sketches = [sketch(np.concatenate(list(group))).ravel() for _, group in groups]
        flat = self._arrow.array(np.concatenate(sketches))
        columns["sketch"] = self._arrow.FixedSizeListArray.from_arrays(flat, DIMENSIONS)
        return columns

    def _write_file(self, table):
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = self._directory / f"predictions-{now}-{os.getpid()}-{next(self._numbers):06}.parquet"
        # readers of the directory pass over names with a dot
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
            # Were files of a clock that was ahead taken for the latest, this one would go in their
            # place.
            known = sorted(
                old
                for old in self._directory.glob("predictions-*.parquet")
                if old.name <= path.name
            )
            for old in known[: -self._files]:
                old.unlink(missing_ok=True)


class _Room:
    """Counts the bytes that wait: the event loop those `taken`, the thread those `freed`, so that
    none needs a lock."""

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


def _size_of(answer):
    """Returns the bytes that an answer takes while it waits, about."""
    return OBJECTS + answer.probabilities.nbytes + answer.embedding.nbytes


def _size(images):
    """Returns the bytes of a request's images; of None, 0."""
    if images is None:
        return 0
    return images.nbytes if isinstance(images, np.ndarray) else sum(map(len, images))


def _digest(image):
    return hashlib.sha256(
        image if isinstance(image, bytes) else np.ascontiguousarray(image)
    ).hexdigest()
