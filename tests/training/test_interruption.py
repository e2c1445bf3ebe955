"""A training that is broken off, by a signal or by its data: what was trained is kept."""

import contextlib
import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from tests.training.runs import saved_steps, tiny, values
from vision import parallel
from vision.data.loading.loader import DataFailed
from vision.data.pipeline import open_data
from vision.errors import UserError
from vision.training.dispatch import CompiledSteps
from vision.training.loop import train

pytestmark = pytest.mark.long

CHANGES = {
    "schedule__name": "plateau",
    "schedule__patience": 1,
    "schedule__factor": 0.5,
    "optimizer__learning_rate": 0.1,
    "checkpoint__every": 3,
    "augment__affine": True,
}


class Broken:
    """A loader with a fault, which comes once.

    Args:
        loader: what it loads from.
        fault: called before one of the batches.
        at: the number of that batch, counted from 0 over all passes.
    """

    def __init__(self, loader, fault, at):
        self._loader = loader
        self._fault = fault
        self._left = at

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def __len__(self):
        return len(self._loader)

    def train_batches(self, plan, batch_size):
        return self._broken(self._loader.train_batches(plan, batch_size))

    def eval_batches(self, batch_size):
        return self._broken(self._loader.eval_batches(batch_size))

    def _broken(self, batches):
        with contextlib.closing(batches):
            for batch in batches:
                if self._left == 0:
                    self._fault()
                self._left -= 1
                yield batch


def run(workdir, split="", fault=None, at=0, **changes):
    """Trains, with a fault in the loader of a split; returns the `Outcome`."""
    c = tiny(**CHANGES, **changes)
    mesh = parallel.make_mesh(1)
    data = open_data(c, mesh)
    if split:
        broken = Broken(data.loaders[split], fault, at)
        data = dataclasses.replace(data, loaders=data.loaders | {split: broken})
    return train(c, data, workdir, mesh)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def fail(error):
    def raise_it():
        raise error

    return raise_it


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Returns (outcome, workdir) of a whole run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return run(workdir), workdir


def assert_same(workdir, outcome, uninterrupted):
    """The run, and the losses from which its plateau schedule followed, are those of a whole
    one."""
    whole, directory = uninterrupted
    assert outcome.steps == whole.steps and outcome.best_step == whole.best_step
    assert values(workdir, "val/loss") == values(directory, "val/loss")
    for a, b in zip(jax.tree.leaves(outcome.state), jax.tree.leaves(whole.state), strict=True):
        np.testing.assert_array_equal(a, b)


# The validation split is one pass of 4 batches, after 4, 8 and 12 steps.
@pytest.mark.parametrize(("at", "step"), [(5, 8), (11, 12)])
def test_a_validation_is_broken_off_and_made_up_for(tmp_path, uninterrupted, at, step):
    """What follows from it, such as a lower learning rate, follows in the resumed run."""
    workdir = tmp_path / "run"
    outcome = run(workdir, "val", terminate, at)
    assert (outcome.why, outcome.steps) == ("interrupted", step)
    assert step in saved_steps(workdir)
    assert step not in dict(values(workdir, "val/loss"))
    assert_same(workdir, run(workdir), uninterrupted)


@pytest.mark.parametrize(
    ("split", "at", "step", "error"),
    [
        ("train", 6, 6, DataFailed("a worker was killed")),
        ("val", 6, 8, UserError("too many")),
    ],
)
def test_data_that_fail_leave_a_checkpoint(tmp_path, uninterrupted, split, at, step, error):
    workdir = tmp_path / "run"
    with pytest.raises(type(error), match=str(error)):
        run(workdir, split, fail(error), at)
    assert max(saved_steps(workdir)) == step
    assert_same(workdir, run(workdir), uninterrupted)


def test_a_signal_before_the_first_step_leaves_nothing_in_the_way(tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    outcome = run(workdir, "train", terminate, 0)
    assert outcome.why == "interrupted" and outcome.steps == 1
    assert_same(workdir, run(workdir), uninterrupted)


def test_a_validation_is_broken_off_twice(tmp_path, uninterrupted):
    """A checkpoint whose validation is due is made up for as often as that is broken off."""
    workdir = tmp_path / "run"
    run(workdir, "val", terminate, 5)
    outcome = run(workdir, "val", terminate, 1)
    assert (outcome.why, outcome.steps) == ("interrupted", 8)
    record = json.loads((workdir / "checkpoints" / "8" / "record" / "metadata").read_text())
    assert record["progress"]["validation_is_due"]
    assert_same(workdir, run(workdir), uninterrupted)


def test_a_validation_that_is_made_up_twice_is_logged_once(tmp_path, uninterrupted, monkeypatch):
    """A signal after it, before the next checkpoint, leaves it due."""
    workdir = tmp_path / "run"
    run(workdir, "val", terminate, 5)
    prepare = CompiledSteps.prepare
    with monkeypatch.context() as patch:
        patch.setattr(
            CompiledSteps, "prepare", lambda *arguments: terminate() or prepare(*arguments)
        )
        assert run(workdir).why == "interrupted"
    assert_same(workdir, run(workdir), uninterrupted)
    values = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    steps = [line["step"] for line in values if "val/loss" in line]
    assert steps == sorted(set(steps))


def test_a_run_that_is_refused_gives_the_signals_back(tmp_path, uninterrupted):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    _, workdir = uninterrupted
    with pytest.raises(UserError, match="holds a run with another config") as refusal:
        run(workdir, seed=7)
    # The exception, which holds what the training had opened, is still there.
    assert refusal.value
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
