"""Pruning after a worker has died: as if it had not."""

import json
import types

import numpy as np
import optuna
import pytest

from tests.search.requests import request
from vision.config import default
from vision.search.lease import Lease
from vision.search.pruning import PlacePruner
from vision.search.queue import DIED, place_of
from vision.search.storage import open_storage
from vision.search.study import make_pruner, make_sampler, open_search
from vision.search.trial import repeat_reports

PLACES = 16
STEPS = 10
NOISE = np.random.default_rng(1).uniform(size=(PLACES, STEPS))
VALUES = (NOISE + 0.1 * np.arange(PLACES)[:, None]).cumsum(1)  # later ones tend to be better


def simulate(out, pruner, deaths):
    """Returns {place: (state, steps, values of its rungs)} of a study with simulated trainings."""
    config = default()
    config.train.steps = STEPS
    made = request(out, trials=PLACES, values=config.to_dict(), pruner=pruner)
    job = open_search(made, open_storage("", out))
    deaths = dict(deaths)
    with Lease(out):
        while True:
            job.queue.fill()
            claimed = job.queue.claim(make_sampler("random", 0, 0), make_pruner(pruner, 0.1))
            if claimed is None:
                break
            study, number = claimed
            trial = optuna.trial.Trial(study, number)
            train(job, config, out, trial, deaths)
    rung = "completed_rung_"
    return {
        place: (
            trial.state.name,
            trial.last_step,
            {key: value for key, value in trial.system_attrs.items() if key.startswith(rung)},
        )
        for place, trial in job.queue.latest().items()
    }


def train(job, config, out, trial, deaths):
    """Trains on, from the last line of the run, until the trial is pruned, done or lost."""
    place = trial.user_attrs["place"]
    job.space.apply(trial, config)
    workdir = out / "trials" / f"{place:04d}"
    workdir.mkdir(parents=True, exist_ok=True)
    metrics = workdir / "metrics.jsonl"
    repeat_reports(trial, job, config, workdir)
    begun = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    for step in range(begun + 1, STEPS + 1):
        value = float(VALUES[place, step - 1])
        with metrics.open("a") as file:
            file.write(json.dumps({"step": step, "val/accuracy": value}) + "\n")
        trial.report(value, 10 * step)
        if step < STEPS and trial.should_prune():
            trial.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return
        if deaths.get(place) == step:
            del deaths[place]
            assert job.queue.give_up(trial._trial_id, DIED)
            return
    trial.study.tell(trial, value)


@pytest.mark.parametrize("pruner", ["asha", "hyperband"])
def test_a_death_changes_nothing(pruner, tmp_path):
    undisturbed = simulate(tmp_path / "a", pruner, {})
    assert {state for state, _, _ in undisturbed.values()} == {"COMPLETE", "PRUNED"}
    steps = {place: percent // 10 for place, (_, percent, _) in undisturbed.items()}
    deaths = {place: last - 1 for place, last in steps.items() if last > 4}
    assert len(deaths) > 2
    assert simulate(tmp_path / "b", pruner, deaths) == undisturbed


def test_every_place_has_the_newest_of_its_trials(tmp_path):
    """Also one that has failed for good and is tried again."""
    job = open_search(request(tmp_path, trials=2), open_storage("", tmp_path))
    job.queue.fill()
    seen = []

    class Watching(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            seen.append([(t.number, place_of(t), t.state.name) for t in study.get_trials()])
            return trial.number == 0

    for how in (job.queue.give_up, job.queue.fail):
        study, number = job.queue.claim(make_sampler("random", 0, 0), PlacePruner(Watching()))
        how(number, DIED)
        job.queue.fill(again=True)
    study, number = job.queue.claim(make_sampler("random", 0, 0), PlacePruner(Watching()))
    trial = optuna.trial.Trial(study, number)
    assert trial.number == 3 and trial.should_prune()
    assert seen == [[(0, 0, "RUNNING"), (1, 1, "WAITING")]]


def test_tpe_learns_from_its_own_bracket(tmp_path):
    """The place decides the bracket, also that of a trial whose worker died."""
    job = open_search(request(tmp_path, trials=PLACES), open_storage("", tmp_path))
    job.queue.fill()
    reference = optuna.pruners.HyperbandPruner(10, 100, 4)
    brackets = set()
    for number in range(PLACES + 1):
        study, claimed = job.queue.claim(make_sampler("tpe", 0, 0), make_pruner("hyperband", 0.1))
        if not number:
            reference._try_initialization(study)
        frozen = study._storage.get_trial(claimed)
        place = place_of(frozen)
        expected = [
            reference._get_bracket_id(study, types.SimpleNamespace(number=other))
            for other in range(PLACES)
        ]
        narrowed = optuna.pruners._filter_study(study, frozen)
        places = {place_of(trial) for trial in narrowed._get_trials(deepcopy=False)}  # TPE's call
        assert places == {other for other in range(PLACES) if expected[other] == expected[place]}
        assert places == {place_of(trial) for trial in narrowed.get_trials()}
        brackets.add(frozenset(places))
        if number == 3:
            assert job.queue.give_up(claimed, DIED)
            job.queue.fill()
        else:
            study.tell(frozen.number, 0.5)
    assert len(brackets) == 2
