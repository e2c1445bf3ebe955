"""The output of a run: metrics.jsonl, TensorBoard events, lines about its progress."""

import concurrent.futures
import contextlib
import errno
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision.run.best import LAST
from vision.support.files import replacing
from vision.support.progress import Progress, print_line
from vision.training.trackers.tracking import Tracking


class RunLog:
    """Writes a run's numbers on a thread of its own, so that a slow disk delays no step.

    Args:
        workdir: the run directory.
        c: config.log.
        start: finished steps; lines of later steps, which a killed process wrote, are dropped from
            metrics.jsonl.
        steps: length of the training.
        repeats: whether the evaluation at `start` is repeated; its line is dropped too.
        active: False on every process except one: nothing is written or shown.
        tracking: what reports the numbers to a tracker; None reports to none.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        c: ConfigDict,
        start: int,
        steps: int,
        *,
        repeats: bool = False,
        active: bool = True,
        tracking: Tracking | None = None,
    ):
        self._active = active
        self._steps = steps
        self._tracking = tracking
        self._work: Progress | None = None
        self._events: _Events | None = None
        self._file: _Lines | None = None
        self._last: concurrent.futures.Future[None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "log")
        if not active:
            return
        self._file = _Lines(workdir / "metrics.jsonl", start, repeats)
        if c.tensorboard:
            self._events = _Events(workdir / "tensorboard", start)
        if c.progress:
            self._work = Progress("training", steps, "steps", done=start, always=True)
            self._work.begin()
        if self._file.damaged:
            self.print_line(f"metrics.jsonl: {self._file.damaged} damaged lines are left out")

    def print_line(self, text: str) -> None:
        """Shows a line above that of the progress."""
        if self._active:
            print_line(text)

    def advance(self, step: int) -> None:
        """Shows that `step` steps are finished."""
        if self._work is not None:
            self._work.reach(step)

    def train(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records training scalars, with "loss", "learning_rate" and "images_per_second"."""
        self.scalars(step, {f"train/{name}": value for name, value in scalars.items()})
        if self._work is not None:
            self._work.note(
                f"loss {scalars['loss']:.4f}, lr {scalars['learning_rate']:.2e}, "
                f"{scalars['images_per_second']:,.0f} img/s"
            )

    def evaluation(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records validation scalars and shows them."""
        self.scalars(step, scalars)
        if self._work is not None:
            numbers = ", ".join(
                f"{name.removeprefix('val/')} {value:.4f}"
                for name, value in scalars.items()
                if name != LAST  # which the line begins with
            )
            self.print_line(f"step {step}/{self._steps}: val {numbers}")

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records {name: value} of a step: metrics.jsonl, TensorBoard, the tracker."""
        if self._active:
            self._submit(self._write, step, dict(scalars))
            if self._tracking is not None:
                self._tracking.scalars(step, scalars)

    def images(self, step: int, images: np.ndarray) -> None:
        """Shows images, uint8 or float [0, 255] (B, H, W, C), as one grid in TensorBoard."""
        events = self._events
        if events is not None:
            self._submit(lambda: events.image(step, "train/augmented", grid(images)))

    def text(self, name: str, text: str) -> None:
        """Shows a text in TensorBoard, as a block of code."""
        if self._events is not None:
            block = "    " + text.replace("\n", "\n    ")
            self._submit(self._events.text, 0, name, block)

    def flush(self) -> None:
        """Waits until everything so far is on disk; raises the error of a failed write."""
        last = self._last
        self._last = None
        if last is not None:
            last.result()

    def settle(self) -> None:
        """Does as `flush`, and gives the tracker time to take everything so far."""
        self.flush()
        if self._tracking is not None:
            self._tracking.settle()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Waits as `flush` does, and closes the files."""
        try:
            self.flush()
        finally:
            self._thread.shutdown()
            with contextlib.ExitStack() as stack:
                for resource in (self._work, self._events, self._file):
                    if resource is not None:
                        stack.callback(resource.close)

    def _submit(self, function: Callable[..., object], *arguments: Any) -> None:
        """Lets the thread call a function after the earlier ones, unless one of them failed."""
        previous = self._last

        def call() -> None:
            if previous is not None:
                previous.result()
            function(*arguments)

        self._last = self._thread.submit(call)

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        assert self._file is not None
        # JSON has no NaN.
        numbers = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self._file.write({"step": step, **numbers})
        if self._events is not None:
            self._events.scalars(step, scalars)


class _Events:
    """TensorBoard events, on disk when a method returns.

    tensorboardX's own SummaryWriter queues events for a thread, so a kill would lose some that
    metrics.jsonl has.
    """

    def __init__(self, directory: pathlib.Path, start: int):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._make = summary
        self._proto = event_pb2
        directory.mkdir(exist_ok=True)
        self._directory = directory
        # Files are named by the second: the suffix gives each process its own.
        self._writer = event_file_writer.EventsWriter(str(directory / "events"), f".{start}")
        session_start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        # TensorBoard forgets the events at and after the step of this one.
        self._write(start + 1 if start else 0, session_log=session_start)

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._write(step, summary=self._make.scalar(name, value))

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._write(step, summary=self._make.image(name, pixels, dataformats="HWC"))

    def text(self, step: int, name: str, text: str) -> None:
        self._write(step, summary=self._make.text(name, text))

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        try:
            self._writer.write_event(self._proto.Event(wall_time=time.time(), step=step, **content))
            self._writer.flush()
        except OSError as error:
            error.filename = str(self._directory)
            raise


def grid(images: np.ndarray) -> np.ndarray:
    """Lays images (B, H, W, C) out in a grid, nearly square, with white lines between them.

    Returns:
        uint8 (H, W, 3).
    """
    images = np.clip(np.rint(np.asarray(images, np.float32)), 0, 255).astype(np.uint8)
    images = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    count, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    filled = np.full((rows * columns, height, width, channels), 255, np.uint8)
    filled[:count] = images
    picture = filled.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    picture = picture.reshape(rows * height, columns * width, channels)
    return np.broadcast_to(picture, (rows * height, columns * width, 3))


class _Lines:
    """A file of JSON lines to append to: each is written in full, or the file stays as it was.

    Args:
        path: the file.
        start: lines of later steps are dropped, as are damaged ones, for example the last that a
            killed process wrote.
        repeats: whether to drop the evaluation at `start`.

    Attributes:
        damaged: number of damaged lines.
    """

    def __init__(self, path: pathlib.Path, start: int, repeats: bool):
        kept = []
        self.damaged = 0
        self._path = path
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    values = _read(line)
                    self.damaged += values is None
                    if values is None or values["step"] > start:
                        continue
                    is_evaluation = any(name.startswith("val/") for name in values)
                    if not (repeats and is_evaluation and values["step"] == start):
                        kept.append(line.removesuffix(b"\n") + b"\n")
        with replacing(path, binary=True) as file:
            file.writelines(kept)
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def write(self, line: Mapping[str, Any]) -> None:
        data = (json.dumps(line) + "\n").encode()
        size = os.fstat(self._handle).st_size
        try:
            if os.write(self._handle, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, size)
            error.filename = str(self._path)
            raise

    def close(self) -> None:
        os.close(self._handle)


def _read(line: bytes) -> dict[str, Any] | None:
    """Returns a line of metrics.jsonl, None if it is damaged."""
    try:
        values = json.loads(line)
        is_whole = type(values["step"]) is int
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return values if is_whole else None
