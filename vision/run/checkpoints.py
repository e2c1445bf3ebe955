"""Checkpoints through Orbax: asynchronous, atomic, checked. Keeps the latest, and the best.

Orbax writes into a temporary folder and renames it, so a kill during a save leaves the earlier
checkpoints intact. It does not always notice what a disk damages afterwards (an array with a
flipped bit restores without complaint), so each checkpoint carries a checksum of its own.

Orbax is imported when a checkpoint is first written or read: importing it takes longer than opening
a run's data, and a run that begins need not wait for it.
"""

import contextlib
import errno
import functools
import logging
import math
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
from ml_collections import ConfigDict

from vision import parallel
from vision.errors import RunError, UserError, brief
from vision.run.best import direction
from vision.run.checksum import checksum, checksum_in_order, joined, sealed, unsealed
from vision.run.side_files import drop_damaged, surplus
from vision.support import disk
from vision.support.files import write_json
from vision.support.progress import waiting
from vision.support.schema import check

READING = "reading the checkpoint"
UNFINISHED = "*.orbax-checkpoint-tmp*"
PATIENCE = 2.0  # seconds for the threads of a failed save to end
RECORD = {"arrays?": int, "checksum": int, "progress": dict}

# When one array cannot be read, TensorStore still tells Orbax about the others, which listens no
# more: a traceback that means nothing.
_show_unraisable = sys.unraisablehook
sys.unraisablehook = lambda event: (
    None if str(event.exc_value) == "Event loop is closed" else _show_unraisable(event)
)
# Each of Orbax's threads logs a failed save as a page of traceback; we raise it in one line.
logging.getLogger("absl").addFilter(
    lambda record: "orbax" not in pathlib.Path(record.pathname).parts
)


def open_checkpoints(
    workdir: pathlib.Path, config: ConfigDict, report: Callable[[str], object] = print
) -> "Checkpoints":
    """Returns the `Checkpoints` of a run directory; see there for `report`."""
    return Checkpoints((workdir / "checkpoints").absolute(), config.checkpoint, report)


class Checkpoints:
    """The checkpoints of a run.

    Args:
        directory: an absolute path.
        c: config.checkpoint.
        report: called with a line of text when a damaged checkpoint, or what it was measured, is
            skipped.
    """

    def __init__(
        self, directory: pathlib.Path, c: ConfigDict, report: Callable[[str], object] = print
    ):
        self._directory = directory
        self._report = report if parallel.is_main_process() else (lambda _: None)
        parallel.on_main_process(self._prepare_directory)
        self._c = c
        self._metric = functools.partial(_metric, name=c.metric, mode=direction(c))
        self._failed = False

    def _prepare_directory(self) -> None:
        drop_damaged(self._directory, self._report)
        self._directory.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def _manager(self) -> Any:
        """Orbax's manager, made at its first use."""
        from vision.run import orbax

        return orbax.open_manager(self._directory, self._c, direction(self._c), self._metric)

    @property
    def _has_manager(self) -> bool:
        return "_manager" in vars(self)

    def save(
        self,
        step: int,
        state: Any,
        progress: dict[str, Any],
        scalars: Mapping[str, float] | None = None,
    ) -> None:
        """Begins to save; returns once `state` may be donated.

        Args:
            step: number of finished steps.
            state: a pytree of arrays.
            progress: a JSON dict: the state of early stopping and the like. The loader's state is
                the step itself.
            scalars: {name: value} of the evaluation at this step, if there was one.

        Raises:
            RunError: if this save, or the previous one, which has ended by now, could not be
                written.
        """
        from vision.run import orbax

        arrays = checksum(state)
        # Runs are compared by that of the arrays; the other one notices any damage.
        record = {"progress": progress, "arrays": arrays, "checksum": joined(arrays, progress)}
        args = orbax.items_to_save(state, record)
        with self._explain_write_errors():
            if not self._directory.is_dir():  # Orbax would make it again, without the run around it
                raise FileNotFoundError(errno.ENOENT, "the directory was removed")
            # Forced: else Orbax asks JAX whether processes should stop, in numbers of its own, and
            # spoils the answer to `parallel.stop_is_agreed`.
            metrics = None if scalars is None else sealed(scalars)
            self._manager.save(step, args=args, metrics=metrics, force=True)

    def add_metrics(self, step: int, scalars: Mapping[str, float]) -> None:
        """Gives a checkpoint that has none the scalars of an evaluation, which rank it.

        Args:
            step: a checkpoint's step.
            scalars: {name: value} of the evaluation at this step.
        """
        file = self._directory / str(step) / "metrics" / "metrics"

        def write() -> None:
            file.parent.mkdir(exist_ok=True)
            write_json(file, sealed(scalars))

        parallel.on_main_process(write)
        self._manager.reload()

    def restore_latest(self, like: Any, progress: Any = dict) -> tuple[Any, dict[str, Any]] | None:
        """Returns (state, progress) of the newest intact checkpoint, or None if there is none.

        Newer ones that are damaged are moved to `damaged/` beside the checkpoints and reported;
        their steps are trained again.

        Args:
            like: a pytree of arrays with the shapes, dtypes and shardings to restore to.
            progress: schema of the progress; see `vision.support.schema`.

        Raises:
            UserError: there are checkpoints, but none can be restored. All stay where they are.
        """
        damaged: dict[int, _Damaged] = {}

        def set_aside() -> None:
            for step, reason in damaged.items():
                self._set_aside(step, reason)

        for step in self._newest_first():
            try:
                restored = self._restore(step, like, progress)
            except _Damaged as error:
                damaged[step] = error
                continue
            parallel.on_main_process(set_aside)
            self._manager.reload()
            return restored
        if damaged:
            self._give_up(damaged)
        return None

    def restore_best(self, like: Any) -> tuple[int, Any]:
        """Returns (step, state) of the best checkpoint.

        If the best is damaged, or none was evaluated, the latest takes its place.

        Args:
            like: a pytree of arrays with the shapes, dtypes and shardings to restore to.

        Raises:
            UserError: none can be restored.
        """
        self.wait()
        damaged: dict[int, _Damaged] = {}
        best = self._manager.best_step()
        candidates = [] if best is None else [best]
        candidates += self._newest_first()
        for step in dict.fromkeys(candidates):
            try:
                return step, self._restore(step, like)[0]
            except _Damaged as error:
                self._report(f"checkpoint {step} is damaged ({error}): skipped")
                damaged[step] = error
        self._give_up(damaged)

    def read_best(self) -> tuple[int, Any]:
        """Returns (step, state) of the best checkpoint as it was saved: a nested dict of arrays.

        The arrays are placed on this process's first device, whatever devices they were saved on.

        Raises:
            UserError: there is no checkpoint, or it is damaged.
        """
        steps = self._newest_first()
        if not steps:
            self._give_up({})
        best = self._manager.best_step()
        step = steps[0] if best is None else best
        try:
            with _silenced_logs(), waiting(READING):
                saved = self._read(step)
            check(saved.record, RECORD, "its record")
        except Exception as error:  # as in _restore
            raise UserError(
                f"checkpoint {step} in {self._directory} is damaged ({brief(error)})"
            ) from error
        if not _is_intact(saved):
            raise UserError(
                f"checkpoint {step} in {self._directory} is damaged: its checksum differs"
            )
        return step, saved.state

    def wait(self) -> None:
        """Waits until every save has finished; raises `RunError` if one could not be written."""
        if not self._has_manager:
            return
        with self._explain_write_errors(), waiting("writing the checkpoint"):
            self._manager.wait_until_finished()

    def remove_surplus(self) -> None:
        """Removes checkpoints that are no longer kept, if a kill has cut their removal short.

        Orbax does so only after a save, and leaves what it has removed in part.
        """
        self.wait()

        def remove() -> None:
            c = self._c
            is_min = direction(c) == "min"
            for path in surplus(self._directory, c.keep_latest, c.keep_best, self._metric, is_min):
                shutil.rmtree(path, ignore_errors=True)

        parallel.on_main_process(remove)
        self._manager.reload()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Waits as `wait` does, and ends Orbax's threads; after a failed save it does not wait."""
        if self._failed or not self._has_manager:
            return
        with self._explain_write_errors():
            self._manager.close()

    def _newest_first(self) -> list[int]:
        if not self._has_manager:  # a run that begins can do without
            steps = [path for path in self._directory.glob("*") if path.name.isdecimal()]
            if parallel.all_agree(not steps):
                return []
        return sorted(self._manager.all_steps(), reverse=True)

    def _read(self, step: int) -> Any:
        """Returns a checkpoint's items, its arrays on this process's first device."""
        from vision.run import orbax

        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            orbax.read_shapes(self._directory / str(step) / "state"),
        )
        return self._manager.restore(step, args=orbax.items_to_restore(target))

    def _restore(self, step: int, like: Any, schema: Any = dict) -> tuple[Any, dict[str, Any]]:
        from vision.run import orbax

        fault = None
        try:
            with _silenced_logs(), waiting(READING):
                args = orbax.items_to_restore(like, self._directory / str(step) / "state")
                saved = self._manager.restore(step, args=args)
            check(saved.record, RECORD, "its record")
            progress = unsealed(saved.record["progress"])
            check(progress, schema, "its progress")
        # Orbax and TensorStore raise many kinds, plain Exception among them.
        except Exception as error:
            fault = error
        if not parallel.all_agree(fault is None):
            raise _Damaged(brief(fault) if fault else "as another process found") from fault
        if not _is_intact(saved):
            raise _Damaged("its checksum differs")
        assert progress is not None  # which no schema allows
        return saved.state, progress

    def _set_aside(self, step: int, reason: Exception) -> None:
        place = self._directory.parent / "damaged" / str(step)
        place.parent.mkdir(exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        shutil.move(self._directory / str(step), place)
        self._report(
            f"checkpoint {step} is damaged ({reason}): moved to {place}; the previous one is used"
        )

    def _give_up(self, damaged: Mapping[int, Exception]) -> NoReturn:
        reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
        raise UserError(
            f"no checkpoint in {self._directory} can be restored ({reasons or 'there is none'}).\n"
            "If the code of the model or the objective was changed, undo that; otherwise start "
            "over with another --workdir"
        )

    @contextlib.contextmanager
    def _explain_write_errors(self) -> Iterator[None]:
        try:
            yield
        # Such as a full disk; raised by the thread that writes, so it can be of any kind.
        except Exception as error:
            self._failed = True
            number = disk.refusal(error)
            reason = os.strerror(number) if number else brief(error)
            if parallel.is_main_process():  # the others may wait for it in Orbax
                self._remove_failed()
            raise RunError(
                f"cannot write a checkpoint to {self._directory}: {reason}; "
                f"{disk.remedy(number)}{disk.AGAIN}, which {self._resumption()}"
            ) from error

    def _remove_failed(self) -> None:
        """Removes a failed save, which Orbax's other threads may still be writing for a moment."""
        deadline = time.monotonic() + PATIENCE
        self.remove_unfinished()
        while time.monotonic() < deadline:
            time.sleep(0.1)
            if not any(self._directory.glob(UNFINISHED)):
                return
            self.remove_unfinished()

    def _resumption(self) -> str:
        """Returns what the next call does."""
        with contextlib.suppress(OSError):
            steps = [int(path.name) for path in self._directory.iterdir() if path.name.isdecimal()]
            if steps:
                return f"resumes from step {max(steps)}"
        return "starts over"

    def remove_unfinished(self) -> None:
        """Removes what failed saves, or saves of killed processes, have left.

        Only for the process that writes the checkpoints.
        """
        for path in self._directory.glob(UNFINISHED):
            shutil.rmtree(path, ignore_errors=True)


class _Damaged(Exception):
    """A checkpoint cannot be restored; the message gives the reason."""


def _is_intact(saved: Any) -> bool:
    """Whether a checkpoint's checksum is that of its state and progress."""
    progress = unsealed(saved.record["progress"])
    if progress is None:
        return False
    for sum_up in (checksum, checksum_in_order):
        arrays = sum_up(saved.state)
        # Older checkpoints have one of the arrays only, and progress with one of its own.
        if saved.record["checksum"] in (joined(arrays, progress), arrays):
            return True
    return False


def _metric(scalars: Mapping[str, float], name: str, mode: str) -> float:
    """Returns the value that ranks a checkpoint; a missing value or NaN ranks last."""
    value = scalars.get(name, math.nan)
    if math.isnan(value):
        return -math.inf if mode == "max" else math.inf
    return value


@contextlib.contextmanager
def _silenced_logs() -> Iterator[None]:
    """Silences the pages that Orbax logs about a damaged file, which we report in one line."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
