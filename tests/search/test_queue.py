"""The queue: exactly so many places, none lost when a worker dies, none taken twice."""

import concurrent.futures
import multiprocessing
import os
import time

import optuna
import pytest
from optuna.trial import TrialState

from vision.search.lease import Lease, Watch, machine, start_time
from vision.search.queue import DIED, LOST, MOST_DEATHS, PLACE, REASON, Queue, latest
from vision.search.storage import open_storage

RANDOM = optuna.samplers.RandomSampler(seed=0)
NEVER = optuna.pruners.NopPruner()


def queue(out, count, points=None, name="study"):
    storage = open_storage("", out)
    optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    return Queue(storage, name, out, count, points)


def dead_worker():
    """Returns a worker of this machine whose process has ended."""
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    worker = {"machine": machine(), "pid": process.pid, "started": start_time(process.pid)}
    process.join()
    return worker | {"file": "x.json", "host": "here"}


def take(q, worker=None):
    claimed = q.claim(RANDOM, NEVER)
    if claimed is None:
        return None
    study, number = claimed
    if worker is not None:
        assert q.sign(number, worker)
    return optuna.trial.Trial(study, number)


def test_as_many_places_as_were_asked_for(tmp_path):
    q = queue(tmp_path, 3)
    for _ in range(3):
        q.fill()
    assert [trial.state for trial in q.trials()] == 3 * [TrialState.WAITING]
    more = queue(tmp_path, 5)
    more.fill()
    assert sorted(trial.user_attrs[PLACE] for trial in more.trials()) == [0, 1, 2, 3, 4]


def claim_all(out):
    q = queue(out, 30)
    places = []
    while (trial := take(q)) is not None:
        places.append(trial.user_attrs[PLACE])
    return places


def test_no_place_is_taken_twice(tmp_path):
    queue(tmp_path, 30).fill()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        taken = list(pool.map(claim_all, 3 * [tmp_path]))
    assert sorted(place for places in taken for place in places) == list(range(30))


def test_the_place_of_a_dead_worker_goes_on_with_its_parameters(tmp_path):
    q = queue(tmp_path, 2)
    q.fill()
    trial = take(q, dead_worker())
    rate = trial.suggest_float("rate", 0, 1)
    with Lease(tmp_path) as lease:
        living = take(q, lease.worker)
        q.fill()
        states = [t.state for t in q.trials()]
        assert states == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]
        assert q.trials()[0].user_attrs[LOST] == DIED
        again = take(q, lease.worker)
        assert again.user_attrs[PLACE] == 0
        assert again.suggest_float("rate", 0, 1) == rate
        assert living.user_attrs[PLACE] == 1
        assert not q.is_settled()
        again.study.tell(again, 1.0)
        assert q.fail(living._trial_id, "a reason")
    assert q.is_settled()
    q.fill()
    assert len(q.trials()) == 3  # what has failed for good is not tried again
    q.fill(again=True)
    assert [t.state for t in q.trials()][3:] == [TrialState.WAITING]


def test_a_trial_that_kills_its_workers_ends(tmp_path):
    q = queue(tmp_path, 1)
    worker = dead_worker()
    for _ in range(MOST_DEATHS):
        q.fill()
        assert take(q, worker) is not None
    q.fill()
    assert take(q) is None
    assert q.is_settled()
    assert q.latest()[0].user_attrs[REASON] == f"{DIED} {MOST_DEATHS} times"


def test_a_worker_that_was_taken_for_dead_changes_nothing(tmp_path):
    q = queue(tmp_path, 1)
    q.fill()
    trial = take(q)
    assert q.give_up(trial._trial_id, DIED)
    assert not q.sign(trial._trial_id, {})
    assert not q.fail(trial._trial_id, "late")


def test_points_are_what_the_places_have(tmp_path):
    q = queue(tmp_path, 2, [{"rate": 0.1}, {"rate": 0.2}])
    q.fill()
    rates = [take(q).suggest_float("rate", 0, 1) for _ in range(2)]
    assert rates == [0.1, 0.2]


def test_latest_is_by_number():
    make = optuna.trial.create_trial
    trials = [make(state=TrialState.RUNNING, user_attrs={PLACE: p}) for p in (1, 0, 1, 7)]
    for number, trial in enumerate(trials):
        trial.number = number
    assert {place: t.number for place, t in latest(trials, 3).items()} == {0: 1, 1: 2}


def test_who_is_dead(tmp_path):
    watch = Watch(tmp_path, lease=0.2, orphan=0.2)
    with Lease(tmp_path) as lease:
        assert not watch.is_dead(0, lease.worker)
        elsewhere = lease.worker | {"machine": "another"}
        assert not watch.is_dead(1, elsewhere)
        assert not watch.is_dead(2, None)
        assert not watch.is_dead(3, lease.worker | {"machine": "another", "file": "gone.json"})
        time.sleep(0.3)
        os.utime(tmp_path / "workers" / lease.worker["file"])
        assert not watch.is_dead(1, elsewhere)  # it has shown a sign of life
        assert watch.is_dead(2, None)
        assert watch.is_dead(3, lease.worker | {"machine": "another", "file": "gone.json"})
        time.sleep(0.3)
        assert watch.is_dead(1, elsewhere)
    assert watch.is_dead(4, dead_worker())
    # Another process has its number now.
    assert watch.is_dead(5, lease.worker | {"started": "1"})


@pytest.mark.parametrize("killed_in", ["a line", "nothing"])
def test_a_journal_whose_writer_was_killed_can_be_read(killed_in, tmp_path):
    q = queue(tmp_path, 2)
    q.fill()
    if killed_in == "a line":
        with (tmp_path / "journal.log").open("a") as file:
            file.write('{"op_code": 5, "worker_')
    q = queue(tmp_path, 3)
    q.fill()
    assert len(queue(tmp_path, 3).trials()) == 3
