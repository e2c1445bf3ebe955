"""A study's trials as a queue in Optuna's storage: exactly so many, none lost, none twice.

A study of N trials has N places, numbered from 0. Each is a trial that waits in the storage
(`Study.enqueue_trial`), until a worker takes it: the storage lets one of them. Parameters are
sampled then, not before. If its worker dies, the trial is marked as failed, and the same place gets
another trial with the same parameters, which goes on in the same run directory.
"""

import contextlib
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from vision.search.lease import Watch
from vision.support.lock import locked

# User attributes of a trial.
PLACE = "place"
WORKER = "worker"
REASON = "reason"  # why it failed, or was given up
LOST = "lost"  # why its worker did not end it, DIED or another; another trial takes the place
DIED = "its worker died"
MOST_DEATHS = 10  # of the workers of one place: its trial is probably what kills them
LOCK = ".queue.lock"
LONGEST_WAIT = 120.0  # seconds for the lock, which is held for moments


class Queue:
    """The places of a study, as a worker sees them.

    Args:
        storage: the study's storage.
        name: the study's name.
        out: the study's directory.
        count: number of places.
        points: parameters of each place; None leaves them to the sampler.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        out: pathlib.Path,
        count: int,
        points: Sequence[Mapping[str, Any]] | None = None,
    ):
        self.name = name
        self.count = count
        self._storage = storage
        self._out = out
        self._points = points
        self._watch = Watch(out)
        self._id = storage.get_study_id_from_name(name)

    def trials(self) -> list[FrozenTrial]:
        """Returns all trials of the storage, also those that were lost."""
        return self._storage.get_all_trials(self._id, deepcopy=False)

    def latest(self) -> dict[int, FrozenTrial]:
        """Returns {place: its newest trial}, without places beyond `count`."""
        return latest(self.trials(), self.count)

    def ended(self) -> int:
        """Returns how many of the trials have ended."""
        return sum(trial.state.is_finished() for trial in self.latest().values())

    def fill(self, again: bool = False) -> None:
        """Gives up trials whose worker is dead, and sees to it that each place has a trial.

        Args:
            again: whether trials that failed are tried again too.
        """
        with exclusively(self._out):
            for trial in self.trials():
                if trial.state == TrialState.RUNNING and self._is_abandoned(trial):
                    self.give_up(trial._trial_id, DIED)
            every = self.trials()
            newest = latest(every, self.count)
            for place in range(self.count):
                last = newest.get(place)
                if last is None:
                    self._enqueue(place, dict(self._points[place]) if self._points else {})
                elif is_lost(last) or (again and last.state == TrialState.FAIL):
                    self._repeat(place, last, every, again)

    def claim(
        self, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner
    ) -> tuple[optuna.Study, int] | None:
        """Takes a waiting trial.

        Returns:
            (study, number of the trial in the storage); None if none waits.
        """
        waiting = [trial for trial in self.trials() if trial.state == TrialState.WAITING]
        for trial in sorted(waiting, key=place_of):
            if place_of(trial) < self.count and self._take(trial._trial_id):
                study = optuna.load_study(
                    study_name=self.name, storage=self._storage, sampler=sampler, pruner=pruner
                )
                return study, trial._trial_id
        return None

    def sign(self, trial: int, worker: Mapping[str, Any]) -> bool:
        """Notes whose a trial is; returns False if it was taken for abandoned meanwhile."""
        return self._note(trial, {WORKER: dict(worker)})

    def give_up(self, trial: int, how: str) -> bool:
        """Marks a running trial as failed, so that its place gets another one.

        Returns:
            False if it had ended.
        """
        return self._note(trial, {LOST: how}) and self._end(trial)

    def fail(self, trial: int, reason: str) -> bool:
        """Marks a running trial as failed for good; returns False if it had ended."""
        return self._note(trial, {REASON: reason}) and self._end(trial)

    def is_settled(self) -> bool:
        """Returns whether every place has its result, or has failed for good."""
        newest = self.latest()
        ended = [trial.state.is_finished() and not is_lost(trial) for trial in newest.values()]
        return len(ended) == self.count and all(ended)

    def _is_abandoned(self, trial: FrozenTrial) -> bool:
        return self._watch.is_dead(trial._trial_id, trial.user_attrs.get(WORKER))

    def _repeat(
        self, place: int, trial: FrozenTrial, every: Sequence[FrozenTrial], again: bool
    ) -> None:
        """Enqueues a trial for the place of one that has failed, with its parameters."""
        deaths = sum(place_of(t) == place and t.user_attrs.get(LOST) == DIED for t in every)
        parameters = trial.system_attrs.get("fixed_params", {}) | trial.params
        is_hopeless = trial.user_attrs.get(LOST) == DIED and deaths % MOST_DEATHS == 0
        if is_hopeless and not again:  # it ends as a trial that has failed, not as one of the lost
            self._enqueue(place, parameters, f"{DIED} {deaths} times")
        else:
            self._enqueue(place, parameters)

    def _enqueue(self, place: int, parameters: dict[str, Any], reason: str = "") -> None:
        state = TrialState.FAIL if reason else TrialState.WAITING
        attributes = {PLACE: place} | ({REASON: reason} if reason else {})
        trial = optuna.trial.create_trial(
            state=state, system_attrs={"fixed_params": parameters}, user_attrs=attributes
        )
        self._storage.create_new_trial(self._id, template_trial=trial)

    def _take(self, trial: int) -> bool:
        try:
            return self._storage.set_trial_state_values(trial, state=TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False

    def _note(self, trial: int, attributes: Mapping[str, Any]) -> bool:
        try:
            for name, value in attributes.items():
                self._storage.set_trial_user_attr(trial, name, value)
        except UpdateFinishedTrialError:
            return False
        return True

    def _end(self, trial: int) -> bool:
        try:
            self._storage.set_trial_state_values(trial, state=TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        return True


def place_of(trial: FrozenTrial) -> int:
    """Returns the place of a trial; one that somebody else has added has its number."""
    return int(trial.user_attrs.get(PLACE, trial.number))


def is_lost(trial: FrozenTrial) -> bool:
    """Returns whether a trial failed only because its worker ended."""
    return trial.state == TrialState.FAIL and LOST in trial.user_attrs


def latest(trials: Sequence[FrozenTrial], count: float = math.inf) -> dict[int, FrozenTrial]:
    """Returns {place: its newest trial} of the places below a count, in their order."""
    newest: dict[int, FrozenTrial] = {}
    for trial in trials:
        place = place_of(trial)
        if place < count and (place not in newest or newest[place].number < trial.number):
            newest[place] = trial
    return dict(sorted(newest.items()))


@contextlib.contextmanager
def exclusively(out: pathlib.Path) -> Iterator[None]:
    """Keeps the study's other workers out of a block; waits for those that are in it."""
    with locked(out, name=LOCK, patience=LONGEST_WAIT):
        yield
