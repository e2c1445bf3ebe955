"""What a program adds to a training: a watcher that stops it, and steps that several share."""

import json

import jax
import numpy as np
import pytest

from tests.conftest import AS_USERS_DO
from tests.training.runs import run, tiny, values
from vision import main, parallel
from vision.data.pipeline import open_data
from vision.run.directory import open_workdir
from vision.training import dispatch
from vision.training.host import PRUNED, Host
from vision.training.loop import train
from vision.training.program import compile_lowered
from vision.training.shared import SharedSteps

pytestmark = pytest.mark.long


def hosted(c, workdir, host):
    mesh = parallel.make_mesh(c.parallel.devices)
    return train(c, open_data(c, mesh), open_workdir(workdir, c), mesh, host)


def test_a_watcher_sees_every_validation_and_prunes(tmp_path):
    seen = []

    def watch(validation):
        seen.append((validation.step, validation.steps, validation.scalars["val/accuracy"]))
        return validation.step >= 8

    result = main.run(tiny(), tmp_path / "run", host=Host(watch))
    assert [(step, steps) for step, steps, _ in seen] == [(4, 12), (8, 12)]
    assert [(s, v) for s, _, v in seen] == values(tmp_path / "run", "val/accuracy")
    assert (result["ended"], result["steps"]) == (PRUNED, 8)
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["ended"] == PRUNED
    assert main.run(tiny(), tmp_path / "run")["steps"] == 8  # finished, as any other


def test_the_last_validation_prunes_nothing(tmp_path):
    outcome = hosted(tiny(), tmp_path / "run", Host(lambda validation: validation.step == 12))
    assert (outcome.why, outcome.steps) == ("finished", 12)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__name": "adamw"},
        {"optimizer__name": "sgd", "schedule__name": "step", "train__steps_per_dispatch": 2},
    ],
    ids=["adamw", "sgd, two steps a call"],
)
def test_shared_steps_train_as_those_of_a_run_of_its_own(changes, tmp_path, monkeypatch):
    """Rates are arguments there, constants here: the parameters agree up to rounding."""
    compiled = []
    shared = Host(shared=SharedSteps())
    monkeypatch.setattr(
        dispatch, "compile_lowered", lambda *a: compiled.append(1) or compile_lowered(*a)
    )
    for number, (rate, decay) in enumerate([(1e-3, 1e-2), (3e-2, 1e-4)]):
        c = tiny(optimizer__learning_rate=rate, optimizer__weight_decay=decay, **changes)
        c.parallel.xla_options = AS_USERS_DO  # Adam enlarges rounding errors of zero gradients
        together = hosted(c, tmp_path / f"shared-{number}", shared)
        assert len(compiled) == 1
        alone = hosted(c, tmp_path / f"alone-{number}", Host())
        compiled.pop()
        rates = values(tmp_path / f"shared-{number}", "train/learning_rate")
        expected = values(tmp_path / f"alone-{number}", "train/learning_rate")
        np.testing.assert_allclose(rates, expected, rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
            together.state["params"],
            alone.state["params"],
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__weight_decay": 0.1},  # there was none: another state
        {"optimizer__b1": 0.8},
        {"train__batch_size": 8},
        {"seed": 1},
        {"data__limit": 48},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_compiled_in_is_not_shared(changes, tmp_path):
    steps = SharedSteps()
    mesh = parallel.make_mesh(1)
    built = []
    for c in (tiny(), tiny(**changes), tiny(checkpoint__keep_best=2)):
        steps.step(c, open_data(c, mesh), mesh, lambda: built.append(object()) or built[-1])
    assert len(built) == 2


def test_a_pruned_training_is_no_longer_stopped_when_it_goes_on(tmp_path):
    """Whether a trial is hopeless is asked again: other trials may have ended meanwhile."""
    c = tiny()
    hosted(c, tmp_path / "run", Host(lambda validation: True))
    assert run(c, tmp_path / "run").steps == 12
