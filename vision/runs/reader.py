"""Reads the files of run directories: config, result, log. Never a checkpoint."""

import dataclasses
import datetime
import os
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

from vision.errors import UserError, first_line
from vision.run import failure
from vision.run.best import BUILT_IN, LAST, direction
from vision.run.directory import flatten
from vision.run.readings import METRICS, best_point, curve, parse_lines, planned_steps
from vision.runs.record import Run
from vision.runs.scan import CONFIG, find_runs
from vision.support.lock import is_locked
from vision.support.reading import read_bytes, read_json
from vision.support.schema import NATURAL, at_least, is_number, numbers_within

RESULT = "result.json"
FILES = (CONFIG, RESULT, failure.NAME, METRICS)
TEST = tuple(name.removeprefix("val/") for name in BUILT_IN if name != LAST)
RUN_CONFIG = {
    "seed": int,
    "data": {"source": str},
    "model": {"name": str, "variant": (str, None)},
    "train": {"steps": NATURAL, "epochs": numbers_within(0, 1e9), "batch_size": at_least(1)},
    "checkpoint": {"metric": str, "mode": str},
}
RUN_RESULT = {
    "ended": str,
    "steps": NATURAL,
    "best_step": NATURAL,
    "images_per_second": float,
    "train_seconds": float,
    "date?": str,
} | {f"{name}?": (float, None) for name in TEST}


class Reader:
    """Reads runs, and again only those whose files have changed since."""

    def __init__(self) -> None:
        self._runs: dict[pathlib.Path, tuple[object, Run]] = {}

    def read_below(self, directories: Sequence[pathlib.Path | str]) -> list[Run]:
        """Returns the runs below some directories; one that cannot be read says why.

        A directory without any run is among them, with that as the reason.
        """
        runs = []
        for directory in directories:
            if next(find_runs([directory]), None) is None:
                reason = f"there are no runs below it: no directory has a {CONFIG}"
                runs.append(_unreadable(str(directory), pathlib.Path(directory), reason))
        return runs + [self.read(name, path) for name, path in find_runs(directories)]

    def read(self, name: str, path: pathlib.Path) -> Run:
        """Returns the run of a directory; one that cannot be read says why."""
        signature = tuple(_signature(path / file) for file in FILES)
        before, run = self._runs.get(path, (None, None))
        if run is None or before != signature:
            run = _read(name, path)
            self._runs[path] = signature, run
        if run.state == "interrupted" and is_locked(path):
            return dataclasses.replace(run, state="running")
        return run


def check_directories(directories: Sequence[pathlib.Path | str]) -> None:
    """Raises `UserError` unless the directories that a command names exist."""
    for directory in directories:
        if not os.path.exists(directory):
            raise UserError(f"there is no directory {directory}")
        if not os.path.isdir(directory):
            raise UserError(f"{directory} is a file: give a run, or a directory of runs")


def _unreadable(name, path, reason):
    return Run(name, path, "unreadable", reason)


def _signature(file):
    """Returns what changes with the contents of a file; None if there is none."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _read(name, path):
    try:
        config = read_json(path / CONFIG, RUN_CONFIG, form="the config of a run")
        run = _with_log(Run(name, path, "interrupted", config=flatten(config)), config)
        if (path / RESULT).is_file():
            return _with_result(run, read_json(path / RESULT, RUN_RESULT))
        failed = failure.read_failure(path)
    except UserError as error:
        reason = first_line(error).replace(f"{path}{os.sep}", "")
        return _unreadable(name, path, reason)
    except RecursionError:
        return _unreadable(name, path, f"{CONFIG} is nested too deeply")
    if failed is None:
        return run
    return dataclasses.replace(run, state="failed", reason=failed["reason"], date=failed["date"])


def _with_log(run: Run, config: Mapping[str, Any]) -> Run:
    """Returns a run with what its metrics.jsonl says."""
    file = run.path / METRICS
    texts = _texts(file)
    validations = _validations(texts)
    training = {
        name: value
        for name, value in _last(texts, b'"train/').items()
        if name.startswith("train/") and is_number(value)
    }
    metric = config["checkpoint"]["metric"]
    checkpoint = types.SimpleNamespace(**config["checkpoint"])
    best = best_point(curve(validations, metric), direction(checkpoint))
    best_step = best[0] if best else None
    return dataclasses.replace(
        run,
        metric=metric,
        validation=_numbers_at(best_step, validations),
        best_step=best_step,
        training=training,
        steps=_last(texts, b"").get("step", 0),
        planned=planned_steps(types.SimpleNamespace(**config["train"]), run.path),
        images_per_second=training.get("train/images_per_second"),
        date=_date_of(file if texts else run.path / CONFIG),
    )


def _with_result(run: Run, result: Mapping[str, Any]) -> Run:
    """Returns a finished run with what its result.json says."""
    validation = run.validation
    if result["best_step"] != run.best_step:  # chosen in a way that older code had
        validation = _numbers_at(result["best_step"], _validations(_texts(run.path / METRICS)))
    return dataclasses.replace(
        run,
        state="finished",
        ended=result["ended"],
        test={name: result[name] for name in TEST if result.get(name) is not None},
        validation=validation,
        steps=result["steps"],
        best_step=result["best_step"],
        images_per_second=result["images_per_second"],
        seconds=result["train_seconds"],
        date=result.get("date", run.date),
    )


def _texts(file: pathlib.Path) -> list[bytes]:
    """Returns the lines of a metrics.jsonl, which are parsed only if they are shown."""
    return read_bytes(file).splitlines() if file.is_file() else []


def _validations(texts):
    return parse_lines(text for text in texts if b'"val/' in text)


def _last(texts, part):
    """Returns the last line that has a part and is not damaged; {} if there is none."""
    lines = (line for text in reversed(texts) if part in text for line in parse_lines([text]))
    return next(lines, {})


def _numbers_at(step, validations):
    """Returns the numbers of the validation at a step."""
    numbers = {}
    for line in validations:
        if line["step"] == step:
            numbers |= {
                name: value
                for name, value in line.items()
                if name.startswith("val/") and name != LAST and is_number(value)
            }
    return numbers


def _date_of(file):
    seconds = os.stat(file).st_mtime
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
