"""One trial: a config of the space, trained as an ordinary run, and what came of it."""

import dataclasses
import functools
import math
import pathlib
import time
import traceback
from collections.abc import Mapping
from typing import Any

import optuna
from ml_collections import ConfigDict
from optuna.exceptions import UpdateFinishedTrialError

from vision.errors import RunError, UserError, first_line
from vision.run.readings import metric_lines, planned_steps
from vision.search.failures import is_unexpected, reason_of
from vision.search.storage import StorageGone, is_unreachable, patiently
from vision.search.study import ORDER, Job
from vision.support.lock import InUse, locked
from vision.support.schema import is_number
from vision.training.host import PRUNED, Host, Validation
from vision.training.run import run
from vision.training.shared import SharedSteps


class Busy(Exception):
    """Another process still writes to the trial's run directory."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a trial ended.

    Attributes:
        state: "complete", "pruned", "failed", or "interrupted".
        values: of the objectives, if it is complete.
        reason: why it failed or was pruned.
        attributes: what its record in the storage gets: images, seconds, ...
    """

    state: str
    values: tuple[float, ...] = ()
    reason: str = ""
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def train_trial(
    trial: optuna.Trial, job: Job, workdir: pathlib.Path, shared: SharedSteps, again: str
) -> Ended:
    """Trains a trial in its run directory, or goes on where it was interrupted.

    An error is the trial's failure, unless the machine or the storage is at fault: a full disk, for
    example, passes through. See `vision.search.failures`. The traceback of an unexpected one goes
    to stderr, which is the trial's log.

    Args:
        trial: the trial, whose parameters are drawn here.
        job: what it is one of.
        workdir: its run directory.
        shared: what the trials of this process share.
        again: the command that goes on after an interruption.

    Raises:
        Busy: a worker that was taken for dead still writes to the directory.
    """
    try:
        config = patiently(lambda: job.space.apply(trial, job.config))
    except optuna.TrialPruned as error:
        return Ended("pruned", reason=f"{job.space.title}: {first_line(error)}")
    except StorageGone:
        raise
    except UserError as error:  # values between the ends that were checked may not fit
        return Ended("failed", reason=first_line(error))
    config.log.curves = False  # the study's report has the curves of all
    config.parallel.distributed = "off"  # a scheduler's workers each have trials of their own
    _check_free(workdir)
    began = time.monotonic()
    try:
        repeat_reports(trial, job, config, workdir)
        host = Host(lambda validation: _watch(trial, job, config, validation), shared)
        result = run(config, workdir, again=again, host=host)
        if result is None:
            return Ended("interrupted")
        values = measures(job, config, workdir, result)
        return _ended(job, workdir, result, values)
    except UpdateFinishedTrialError:  # this worker was taken for dead, and another one goes on
        return Ended("interrupted")
    except StorageGone:
        raise
    except Exception as error:
        reason = "" if is_unreachable(error) else reason_of(error)
        if not reason:
            raise
        if is_unexpected(error):
            traceback.print_exception(error)
        return Ended("failed", reason=reason, attributes=_spent(config, workdir, began))


def measures(
    job: Job, config: ConfigDict, workdir: pathlib.Path, result: Mapping[str, Any]
) -> dict[str, float]:
    """Returns {name: value} of what an objective may name.

    These are the validation of the run's best checkpoint, its costs, and what the space measures. A
    value may be NaN or infinite.
    """
    lines = [line for line in metric_lines(workdir) if line["step"] == result["best_step"]]
    values = {name: _number(v) for line in lines for name, v in line.items() if name != "step"}
    values["parameters"] = float(result["parameters"]["all"])
    values["train_seconds"] = float(result["train_seconds"])
    values["images"] = float(result["steps"] * config.train.batch_size)
    return values | dict(job.space.measure(config, workdir))


def resource(config: ConfigDict, base: ConfigDict, share: float) -> int:
    """Returns how far a trial is, in percent of the training of the study's config.

    Trials with other batch sizes are then compared after equally many images, and one that trains
    for longer than the study's config gets beyond 100.

    Args:
        config: the trial's config.
        base: the study's config.
        share: share of the trial's own training that is done.
    """
    length = 1.0
    if not config.train.steps and not base.train.steps:
        length = config.train.epochs / max(base.train.epochs, 1e-9)
    elif config.train.steps and base.train.steps:
        length = config.train.steps * config.train.batch_size
        length /= base.train.steps * base.train.batch_size
    return max(1, round(ORDER[0] * share * length))


def repeat_reports(
    trial: optuna.Trial, job: Job, config: ConfigDict, workdir: pathlib.Path
) -> None:
    """Reports the validations of the worker that died before: they are not made again.

    The pruner is asked after each, so that it notes what the trial had reached there; its answer
    came from the trials of that time, after which the training went on.
    """
    objective = next(iter(job.objectives))
    lines = [line for line in metric_lines(workdir) if objective in line]
    if len(job.objectives) > 1 or not lines:
        return
    total = planned_steps(config.train, workdir)
    for line in lines:
        if total:
            share = line["step"] / total
            percent = resource(config, job.config, share)
            value = _number(line[objective])
            patiently(functools.partial(trial.report, value, percent))
            if line["step"] < total:  # as while it was trained
                patiently(trial.should_prune)


def _watch(trial: optuna.Trial, job: Job, config: ConfigDict, validation: Validation) -> bool:
    """Reports a validation to the pruner; returns whether the trial is hopeless."""
    objective = next(iter(job.objectives))
    if len(job.objectives) > 1 or objective not in validation.scalars:
        return False
    share = validation.step / validation.steps
    try:
        trial.report(validation.scalars[objective], resource(config, job.config, share))
        return validation.step < validation.steps and trial.should_prune()
    except Exception as error:
        if is_unreachable(error):  # the training need not wait: the next validation asks again
            return False
        raise


def _number(value: Any) -> float:
    """Returns a value of metrics.jsonl, NaN for one that was not finite."""
    return float(value) if is_number(value) else math.nan


def _check_free(workdir: pathlib.Path) -> None:
    if not workdir.is_dir():
        return
    try:
        with locked(workdir, "--workdir"):
            pass
    except InUse as error:
        raise Busy(str(error)) from error


def _ended(
    job: Job, workdir: pathlib.Path, result: Mapping[str, Any], values: Mapping[str, float]
) -> Ended:
    attributes = {
        "images": int(values["images"]),
        "seconds": round(float(result["train_seconds"]), 2),
        "steps": int(result["steps"]),
        "best_step": int(result["best_step"]),
    }
    if result["ended"] == PRUNED:
        reason = f"pruned at step {result['steps']}"
        return Ended("pruned", reason=reason, attributes=attributes)
    missing = [name for name in job.objectives if name not in values]
    if missing:
        measured = ", ".join(sorted(values))
        raise UserError(
            f"--objective {missing[0]}: {workdir} does not measure it; it measures {measured}"
        )
    for name in job.objectives:
        if not math.isfinite(values[name]):
            raise RunError(f"{name} is {values[name]} at the best step, so it cannot be compared")
    return Ended(
        "complete",
        values=tuple(values[name] for name in job.objectives),
        attributes=attributes,
    )


def _spent(config: ConfigDict, workdir: pathlib.Path, began: float) -> dict[str, Any]:
    """Returns what a trial that failed has cost, as far as its metrics and this attempt tell."""
    steps = max((line["step"] for line in metric_lines(workdir)), default=0)
    seconds = round(time.monotonic() - began, 2)
    return {"images": steps * config.train.batch_size, "seconds": seconds, "steps": steps}
