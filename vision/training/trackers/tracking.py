"""Reports a run to a tracker on a thread of its own, which no step waits for."""

import dataclasses
import importlib
import math
import pathlib
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ml_collections import ConfigDict

from vision.config.trackers import tracker_options
from vision.config.validate import leaves
from vision.errors import UserError, brief
from vision.support.files import write_json
from vision.support.reading import read_json

# In the run directory: {tracker: id of the run there}, and the trackers that know of its end.
NAME = "tracker.json"
SCHEMA = {"mlflow?": str, "wandb?": str, "finished?": [str]}
FILES = ("config.json", "result.json", "curves.png")
PATIENCE = 120.0  # seconds that the end of a run waits for its tracker, at most
SHORT_PATIENCE = 10.0  # of a run that was interrupted: its user waits; and of a checkpoint
POLL = 0.1  # seconds between two looks at whether the thread still works
LONGEST_BACKLOG = 10_000  # steps whose values wait for a tracker
_CREDENTIALS = re.compile(r"://[^\s/@]*:[^\s@]*@")  # of an address in a library's message


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """A run, as a tracker gets to know it.

    Attributes:
        workdir: its directory.
        values: {key: value} of its config.
        options: all options of the tracker.
        id: what the tracker called it when it began; "" for a new one.
        keep_id: to be called with what the tracker calls a new run, as soon as that is known.
        patience: seconds that the end of the run waits for the tracker, at most.
    """

    workdir: pathlib.Path
    values: Mapping[str, Any]
    options: Mapping[str, Any]
    id: str
    keep_id: Callable[[str], object]
    patience: float

    @property
    def name(self) -> str:
        """What people call the run."""
        return self.options["name"] or self.workdir.resolve().name


class Tracker(Protocol):
    """What a module of this folder makes of a run, by `open(run)`. Every method may fail."""

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records finite numbers of a step, in the order of steps.

        After a resume, steps come again that a killed process has recorded.
        """

    def finish(self, scalars: Mapping[str, float], files: list[pathlib.Path]) -> None:
        """Records the measures of the test split and files, and that the run is finished."""

    def stop(self, failed: bool) -> None:
        """Records that the run has failed, or was interrupted."""


class Tracking:
    """Reports a run to its tracker.

    Nothing here raises an error. Only checkpoints and the end of a run wait for a server. If
    something goes wrong, one line says so, and nothing more is reported.

    Args:
        name: the tracker's.
        workdir: the run directory.
        config: the run's config.
        report: prints a line.
        patience: seconds that the end of the run waits in all, at most. Beside other processes of
            the run it must be well below `vision.distributed.SHUTDOWN_TIMEOUT`: they wait for this
            one meanwhile.
    """

    def __init__(
        self,
        name: str,
        workdir: pathlib.Path,
        config: ConfigDict,
        report: Callable[[str], object],
        patience: float = PATIENCE,
    ):
        self._name = name
        self._workdir = workdir
        self._config = config
        self._report = report
        self._patience = patience
        self._tasks: queue.SimpleQueue[Callable[[Tracker], object] | None] = queue.SimpleQueue()
        self._has_ended = False
        self._has_given_up = False
        self._is_late = False  # whether a checkpoint has waited in vain
        self._settled: threading.Event | None = None  # set once the last checkpoint's task is done
        self._leaves_out = False  # whether a line has said that the backlog was too long
        # Not on the thread: a library of two seconds would take them from the first steps.
        self._module = self._import()
        # A daemon: a server that hangs must not keep the process.
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Reports {name: value} of a step; values that are not finite are left out.

        The first call begins: before, a training may still be refused.
        """
        if self._has_given_up:
            return
        if self._tasks.qsize() >= LONGEST_BACKLOG:
            self._leave_out(step)
            return
        finite = {name: float(value) for name, value in scalars.items() if math.isfinite(value)}
        self._tasks.put(lambda tracker: tracker.scalars(step, finite))
        self._begin()

    def settle(self) -> None:
        """Waits until everything so far is reported, at most `SHORT_PATIENCE`.

        A checkpoint calls it: a run that is killed afterwards goes on there, and never reports
        earlier values again. While a server hangs, only the first checkpoint waits.
        """
        if self._settled is not None and not self._settled.is_set():
            return
        if self._has_given_up or self._has_ended or self._thread.ident is None:
            return
        settled = threading.Event()
        self._settled = settled
        self._tasks.put(lambda _: settled.set())
        deadline = time.monotonic() + SHORT_PATIENCE
        while not settled.wait(POLL) and self._thread.is_alive():
            if time.monotonic() > deadline:
                self._note_late()
                return

    def finish(self, scalars: Mapping[str, float]) -> None:
        """Reports the end of a run.

        Args:
            scalars: {name: value} of the test split.
        """
        named = {f"test/{name}": float(value) for name, value in scalars.items()}
        files = [self._workdir / name for name in FILES]
        there = [file for file in files if file.is_file()]

        def last(tracker: Tracker) -> None:
            tracker.finish(named, there)
            self._keep(is_finished=True)

        self._end(last, self._patience)

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, kind: object, *_: Any) -> None:
        if not self._has_ended and self._thread.ident is not None:
            patience = min(SHORT_PATIENCE, self._patience)
            self._end(lambda tracker: tracker.stop(failed=kind is not None), patience)

    def _begin(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def _end(self, last: Callable[[Tracker], object], patience: float) -> None:
        """Reports the last thing, and waits until all are reported, at most `patience` seconds."""
        self._has_ended = True
        if self._has_given_up:
            return
        self._tasks.put(last)
        self._tasks.put(None)
        self._begin()
        self._thread.join(patience)
        if self._thread.is_alive():
            self._report(
                f"note: {self._name} has not taken everything within {patience:g} s: "
                f"{self._workdir} has all numbers of this run"
            )

    def _note_late(self) -> None:
        """Says, once, that a kill may cost values."""
        if not self._is_late:
            self._is_late = True
            self._report(
                f"note: {self._name} is more than {SHORT_PATIENCE:g} s behind a checkpoint: if "
                f"this run is killed, it may lack values there; {self._workdir} has all numbers"
            )

    def _leave_out(self, step: int) -> None:
        """Says, once, that not all values are reported."""
        if not self._leaves_out:
            self._leaves_out = True
            self._report(
                f"note: {self._name} is {LONGEST_BACKLOG:,} reports behind: values from step "
                f"{step} on are left out there; {self._workdir} has all numbers"
            )

    def _work(self) -> None:
        """Opens the tracker, then does the tasks in order, until the first that fails."""
        if self._module is None:
            return
        try:
            tracker = self._open(self._module)
            while (task := self._tasks.get()) is not None:
                task(tracker)
        except Exception as error:  # a server that is down, a full disk, another version
            self._give_up(error)

    def _import(self) -> Any:
        """Returns the tracker's module; None if its library cannot be imported."""
        try:
            return importlib.import_module(f"vision.training.trackers.{self._name}")
        except Exception as error:
            self._give_up(error)
            return None

    def _give_up(self, error: Exception) -> None:
        self._has_given_up = True
        reason = _CREDENTIALS.sub("://", brief(error))  # MLflow's environment may have some
        self._report(
            f"note: {self._name} no longer follows this run: {reason}; {self._workdir} has "
            "all numbers"
        )

    def _open(self, module: Any) -> Tracker:
        kept = _read(self._workdir)
        if self._name in kept.get("finished", ()):  # it is tested again: to the tracker it runs
            self._keep(is_finished=False)
        run = TrackedRun(
            workdir=self._workdir,
            values=dict(leaves(self._config)),
            options=tracker_options(self._config.log),
            id=kept.get(self._name, ""),
            keep_id=lambda new: self._keep(is_finished=False, run_id=new),
            patience=self._patience,
        )
        return module.open(run)

    def _keep(self, is_finished: bool, run_id: str = "") -> None:
        """Writes whether the tracker knows of the run's end, and what it calls a new run."""
        kept = _read(self._workdir)
        finished = [name for name in kept.pop("finished", ()) if name != self._name]
        if is_finished:
            finished.append(self._name)
        if finished:
            kept["finished"] = finished
        if run_id:
            kept[self._name] = run_id
        write_json(self._workdir / NAME, kept)


def awaits_end(workdir: pathlib.Path, name: str) -> bool:
    """Returns whether a tracker has a run of a directory and may not know that it is finished.

    A tracker.json that cannot be read counts as one: `Tracking` has a line for that.
    """
    try:
        kept = _read(workdir)
    except UserError:
        return True
    return name in kept and name not in kept.get("finished", ())


def _read(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the contents of a directory's tracker.json; {} without one."""
    path = workdir / NAME
    return read_json(path, SCHEMA, "remove it") if path.exists() else {}
