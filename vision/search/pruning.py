"""What a pruner sees of a study: each place once, whatever became of its workers.

A place whose worker died has several trials in the storage, and Optuna's pruners would compare all
of them: a config would compete with itself. Hyperband would also move a resumed trial to another of
its brackets, which it chooses by Optuna's number of the trial.
"""

import copy
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from vision.search.queue import latest, place_of

Trials = list[FrozenTrial]


class PlacePruner(optuna.pruners.BasePruner):
    """Lets a pruner see the newest trial of each place, with the place as its number.

    Args:
        pruner: Optuna's.
    """

    def __init__(self, pruner: optuna.pruners.BasePruner):
        self._pruner = pruner

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether a trial should be pruned; see Optuna's `BasePruner`."""
        return self._pruner.prune(_showing(study, _by_places, self._pruner), _by_place(trial))


class PlaceHyperband(optuna.pruners.HyperbandPruner):
    """Hyperband that sees what `PlacePruner` shows; the place of a trial decides its bracket.

    It is a subclass because Optuna asks for the type: TPE learns from the trials of its own bracket
    only, which were stopped at the same points.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether a trial should be pruned; see Optuna's `BasePruner`."""
        return super().prune(_showing(study, _by_places, self), _by_place(trial))

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        if not self._pruners:  # each trial has a new pruner, which has not been asked yet
            self._try_initialization(study)
        return super()._get_bracket_id(study, _by_place(trial))

    def _create_bracket_study(self, study: optuna.Study, bracket_id: int) -> optuna.Study:
        if isinstance(study.sampler, optuna.samplers.TPESampler):
            # It reads the trials past the method that Optuna's study of a bracket overrides.
            def of_bracket(trials: Trials) -> Trials:
                return [t for t in trials if self._get_bracket_id(study, t) == bracket_id]

            study = _showing(study, of_bracket, self)
        return super()._create_bracket_study(study, bracket_id)


class _Showing:
    """A storage that shows some of the trials of another, and is that other in all else."""

    def __init__(self, storage: optuna.storages.BaseStorage, choose: Callable[[Trials], Trials]):
        self._storage = storage
        self._choose = choose

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> Trials:
        """As of Optuna's `BaseStorage`."""
        chosen = self._choose(self._storage.get_all_trials(study_id, deepcopy=deepcopy))
        return [trial for trial in chosen if states is None or trial.state in states]


def _showing(
    study: optuna.Study, choose: Callable[[Trials], Trials], pruner: optuna.pruners.BasePruner
) -> optuna.Study:
    """Returns a study with fewer trials, which `choose` returns of all."""
    storage: Any = _Showing(study._storage, choose)
    return optuna.Study(study.study_name, storage, study.sampler, pruner)


def _by_places(trials: Trials) -> Trials:
    """Returns the newest trial of each place."""
    return [_by_place(trial) for trial in latest(trials).values()]


def _by_place(trial: FrozenTrial) -> FrozenTrial:
    """Returns a trial that has its place as its number."""
    shown = copy.copy(trial)
    shown.number = place_of(trial)
    return shown
