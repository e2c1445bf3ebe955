"""A worker: takes trials until none is left, one after the other."""

import contextlib
import functools
import time
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from vision import cli
from vision.search.failures import check_hope
from vision.search.lease import Lease
from vision.search.queue import REASON, place_of
from vision.search.repeats import plan
from vision.search.request import Request
from vision.search.storage import patiently, reopen_storage
from vision.search.study import Job, make_pruner, make_sampler, open_search
from vision.support import signals
from vision.support.progress import Progress
from vision.training.shared import SharedSteps

POLL = 1.0  # seconds between two looks at the queue while others still work
BUSY = 30.0  # seconds to leave a run directory alone that somebody still writes to
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}


class Worker:
    """What one process needs to work on a study's trials.

    Args:
        request: the search.
        again: the command that goes on after an interruption.
    """

    def __init__(self, request: Request, again: str = "the same command"):
        self._request = request
        self._again = again
        self._shared = SharedSteps()
        self._logs = request.out / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)

    def search(self) -> bool:
        """Works until the search, and the repetition of its best configs, are done.

        Returns:
            False if interrupted.
        """
        request = self._request
        with Lease(request.out) as lease:
            storage = reopen_storage(request.storage, request.out)
            job = patiently(lambda: open_search(request, storage))
            if not self.work(job, lease, request.retry):
                return False
            if not request.repeat:
                return True
            repeats = patiently(lambda: plan(request, storage, job))
            return repeats is None or self.work(repeats, lease, request.retry)

    def work(self, job: Job, lease: Lease, again: bool = False) -> bool:
        """Works until every trial of a job has ended, by this worker or another.

        Args:
            job: the trials.
            lease: this worker's.
            again: whether trials that failed are tried again.

        Returns:
            False if interrupted.

        Raises:
            RunError: the first trials have all failed.
        """
        title = job.folder
        with Progress(title, job.queue.count, done=patiently(job.queue.ended)) as work:
            while not signals.received():
                patiently(functools.partial(job.queue.fill, again))
                again = False  # once is enough
                pruner = make_pruner(job.pruner, self._request.grace)
                sampler = make_sampler(job.sampler, self._request.seed, 0)
                claimed = patiently(lambda: job.queue.claim(sampler, pruner))  # noqa: B023
                if claimed is None:
                    if patiently(job.queue.is_settled):
                        return True
                    time.sleep(POLL)
                    continue
                if patiently(lambda: job.queue.sign(claimed[1], lease.worker)):  # noqa: B023
                    self._train(job, *claimed)
                patiently(lambda: _check_hope(job))
                work.reach(patiently(job.queue.ended))
        return False

    def _train(self, job: Job, study: optuna.Study, number: int) -> None:
        """Trains a trial that this worker has taken, and records how it ended."""
        from vision.search.trial import Busy, Ended, train_trial

        record = patiently(lambda: study._storage.get_trial(number))
        place = place_of(record)
        study.sampler = make_sampler(job.sampler, self._request.seed, place)
        trial = patiently(lambda: optuna.trial.Trial(study, number))
        workdir = self._request.out / job.folder / job.name(place)
        workdir.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        log = self._logs / f"{job.folder}-{job.name(place)}.txt"
        try:
            with (
                log.open("a") as file,
                contextlib.redirect_stdout(file),
                contextlib.redirect_stderr(file),
            ):
                ended = train_trial(trial, job, workdir, self._shared, self._again)
        except Busy:
            patiently(lambda: job.queue.give_up(number, "its directory was in use"))
            time.sleep(BUSY)
            return
        except signals.Interrupted:
            ended = Ended("interrupted")
        if ended.state == "interrupted":
            patiently(lambda: job.queue.give_up(number, "interrupted"))
            return
        patiently(lambda: _tell(job, study, trial, ended))
        cli.show(describe(job, place, trial.params, ended, time.monotonic() - began))


def _tell(job: Job, study: optuna.Study, trial: optuna.Trial, ended: Any) -> None:
    """Records how a trial ended; nothing if it was taken for abandoned meanwhile."""
    number = trial._trial_id
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        for name, value in ended.attributes.items():
            study._storage.set_trial_user_attr(number, name, value)
        if ended.state == "failed":
            job.queue.fail(number, ended.reason)
            return
        if ended.reason:
            study._storage.set_trial_user_attr(number, REASON, ended.reason)
        values = list(ended.values) or None
        study.tell(trial, values, STATES[ended.state], skip_if_finished=True)


def _check_hope(job: Job) -> None:
    """Raises `RunError` if the first trials have all failed, as they would with a wrong path."""
    ended = [t for t in job.queue.latest().values() if t.state.is_finished()]
    failed = [t for t in ended if t.state == TrialState.FAIL and REASON in t.user_attrs]
    reasons = [trial.user_attrs[REASON] for trial in failed]
    remedy = "Fix this, and run the same command with --retry"
    check_hope("trials", reasons, len(ended), remedy)


def describe(
    job: Job, place: int, parameters: Mapping[str, Any], ended: Any, seconds: float
) -> str:
    """Returns a line on a trial that has ended."""
    values = ", ".join(
        f"{name} {value:.4g}" for name, value in zip(job.objectives, ended.values, strict=False)
    )
    what = values or ended.reason or ended.state
    if ended.state == "failed":
        what = f"failed: {ended.reason}"
    chosen = ", ".join(f"{name}={_short(value)}" for name, value in parameters.items())
    kind = job.folder.removesuffix("s")
    return f"{kind} {job.name(place)}: {what}; {seconds:.1f} s; {chosen}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
