"""What a pruner sees of a study: each place once, whatever became of its workers.

A place whose worker died has several trials in the storage, and Optuna's pruners would compare all
of them: a config would compete with itself. Hyperband would also move a resumed trial to another of
its brackets, which it chooses by Optuna's number of the trial.
"""

import copy
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from vision.search.queue import latest, place_of


class PlacePruner(optuna.pruners.BasePruner):
    """Lets a pruner see the newest trial of each place, with the place as its number.

    Args:
        pruner: Optuna's.
    """

    def __init__(self, pruner: optuna.pruners.BasePruner):
        self._pruner = pruner

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether a trial should be pruned; see Optuna's `BasePruner`."""
        storage: Any = _Places(study._storage)
        places = optuna.Study(study.study_name, storage, study.sampler, self._pruner)
        return self._pruner.prune(places, _by_place(trial))


class _Places:
    """A storage whose trials are the newest ones of all places; all else is that of another."""

    def __init__(self, storage: optuna.storages.BaseStorage):
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Any = None
    ) -> list[FrozenTrial]:
        """As of Optuna's `BaseStorage`."""
        every = self._storage.get_all_trials(study_id, deepcopy=deepcopy)
        newest = latest(every).values()
        return [_by_place(trial) for trial in newest if states is None or trial.state in states]


def _by_place(trial: FrozenTrial) -> FrozenTrial:
    """Returns a trial that has its place as its number."""
    shown = copy.copy(trial)
    shown.number = place_of(trial)
    return shown
