"""Reads prediction logs: file by file, part by part, never all of their rows at once.

    log = open_log("predictions")
    for batch in log.batches(["time", "class", "confidence"]):
        ...  # a pyarrow.RecordBatch of at most 65,536 rows

`vision.reference.log_format` says what the columns are. A server may go on writing meanwhile: files
appear complete, under names that sort by the time of their writing.
"""

import dataclasses
import datetime
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vision.errors import UserError
from vision.reference.log_format import (
    FORMAT,
    FORMAT_KEY,
    IMAGES,
    OPTIONAL,
    PATTERN,
    SKETCH_KEY,
    schema,
)
from vision.reference.sketch import SKETCH
from vision.support.progress import Progress
from vision.support.reading import parsing

ROWS = 65_536  # in a batch, at most
CLOCK = 1.0  # seconds by which a clock may step back: it is being adjusted
TEXTS = ["model", "version", "bundle", "class"]  # columns with few different values
_NAME = re.compile(r"predictions-(\d{8}T\d{6}\.\d{6})Z-")


@dataclasses.dataclass
class Log:
    """A directory of log files.

    Attributes:
        directory: the directory.
        files: those that can be read, in the order of their names.
        skipped: {file's name: why it is not read}, of other formats.
        steps_back: {file's name: seconds}, how far the clock went back while it was being written;
            complete once `batches` has been read to its end.
    """

    directory: pathlib.Path
    files: list[pathlib.Path]
    skipped: dict[str, str]
    steps_back: dict[str, float] = dataclasses.field(default_factory=dict)

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yields `pyarrow.RecordBatch`es of some columns, in the order of writing.

        Columns of `TEXTS` are dictionaries. A file that the server has deleted since is passed
        over.

        Raises:
            UserError: a file is damaged.
        """
        with Progress("reading the log", len(self.files), "files") as work:
            yield from self._batches(work.over(self.files), columns)

    def image(self, kept: str) -> pathlib.Path:
        """Returns the file of an image that the column `kept` names."""
        return self.directory / IMAGES / kept

    def _batches(self, files, columns):
        import pyarrow.parquet

        for file in files:
            with parsing(file, "a complete Parquet file", "move it elsewhere to go on without it"):
                try:
                    opened = pyarrow.parquet.ParquetFile(file, read_dictionary=TEXTS)
                except FileNotFoundError:
                    continue
                with opened:
                    yield from self._follow_clock(file, opened.iter_batches(ROWS, columns=columns))

    def _follow_clock(self, file, batches):
        """Yields batches, and notes how far the clock goes back in them."""
        latest = -np.inf
        match = _NAME.match(file.name)
        written = _seconds_of(match[1]) if match else np.inf
        for batch in batches:
            if "time" in batch.schema.names and len(batch):
                seconds = seconds_of(batch)
                before = np.maximum.accumulate(np.append(latest, seconds))
                step = float((before[:-1] - seconds).max())
                latest = before[-1]
                step = max(step, latest - written)
                if step > max(CLOCK, self.steps_back.get(file.name, 0)):
                    self.steps_back[file.name] = step
            yield batch


def open_log(directory: pathlib.Path | str) -> Log:
    """Returns the `Log` in a directory.

    Raises:
        UserError: there is no such directory, or none of its files is a log of this format.
    """
    import pyarrow.parquet

    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise UserError(f"there is no directory --log {directory}")
    log = Log(directory, [], {})
    for file in sorted(directory.glob(PATTERN)):
        with parsing(file, "a complete Parquet file", "move it elsewhere to go on without it"):
            try:
                contents = pyarrow.parquet.read_schema(file)
            except FileNotFoundError:  # deleted by the server, which keeps the latest
                continue
        reason = _why_not(contents, pyarrow)
        if reason:
            log.skipped[file.name] = reason
        else:
            log.files.append(file)
    if not log.files and log.skipped:
        name, reason = next(iter(log.skipped.items()))
        raise UserError(
            f"--log {directory}: none of {len(log.skipped):,} files can be read, {name} because "
            f"{reason}"
        )
    if not log.files:
        raise UserError(
            f"--log {directory} has no {PATTERN}: give the directory of the server's "
            "--prediction-log. It writes a file every 5 minutes, or when it stops"
        )
    return log


def seconds_of(batch: Any) -> np.ndarray:
    """Returns the times of a batch's rows, float64 (N,) seconds since the epoch."""
    return batch.column("time").to_numpy(zero_copy_only=False).astype("int64") / 1e6


def moment(seconds: float) -> str:
    """Returns a time as ISO 8601 in UTC, to the second."""
    time = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")


def _why_not(contents, arrow):
    """Returns why a file of a schema is not read; "" if it is."""
    metadata = contents.metadata or {}
    version = metadata.get(FORMAT_KEY.encode(), b"").decode(errors="replace")
    if not version:
        return "it is not a prediction log"
    if version != FORMAT:
        return f"it is of format {version}, but this version reads {FORMAT}"
    kind = metadata.get(SKETCH_KEY.encode(), b"").decode(errors="replace")
    if kind != SKETCH:
        return f"its sketches are of kind {kind}, and this version's of kind {SKETCH}"
    wanted = schema(arrow)
    for name in wanted.names:
        place = contents.get_field_index(name)
        if place < 0 and name in OPTIONAL:
            continue
        if place < 0 or contents.field(place).type != wanted.field(name).type:
            return f"its column {name} is missing or is not {wanted.field(name).type}"
    return ""


def _seconds_of(text):
    moment = datetime.datetime.strptime(text, "%Y%m%dT%H%M%S.%f")
    return moment.replace(tzinfo=datetime.UTC).timestamp()
