"""Several steps a dispatch, and lookahead: the same run, also if it is stopped and goes on."""

import jax
import numpy as np
import pytest

from tests.training.runs import CNN, SCALARS, run, saved_steps, stopping_at, tiny, values
from vision.training.state import StateSpec

pytestmark = pytest.mark.long


def test_several_steps_a_dispatch_are_the_same_run(tmp_path):
    """Log lines come at calls' ends; evaluations, checkpoints and parameters are those of single
    steps."""
    c = tiny(optimizer__name="sgd", train__eval_every=5, checkpoint__every=4)
    single = run(c, tmp_path / "one")
    c.train.steps_per_dispatch = 3
    several = run(c, tmp_path / "three")
    assert saved_steps(tmp_path / "one") == saved_steps(tmp_path / "three")
    for name in SCALARS:
        ours, theirs = (values(tmp_path / each, f"val/{name}") for each in ("one", "three"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert single.steps == several.steps and single.best_step == several.best_step
    assert [step for step, _ in values(tmp_path / "three", "train/loss")][-1] == 12


def test_several_steps_a_dispatch_interrupted_and_resumed_end_with_the_same_bits(tmp_path):
    check_resumed(tmp_path, CNN)  # a ViT: tests/slow/test_loop.py


def check_resumed(tmp_path, model):
    c = tiny(
        train__steps_per_dispatch=3,
        train__eval_every=6,
        optimizer__lookahead=2,
        augment__flip_alternating=True,
        **model,
    )
    uninterrupted = run(c, tmp_path / "whole")
    with stopping_at(9):
        assert run(c, tmp_path / "parts").steps == 9
    resumed = run(c, tmp_path / "parts")
    assert values(tmp_path / "parts", "val/loss") == values(tmp_path / "whole", "val/loss")
    assert uninterrupted.best_step == resumed.best_step
    for a, b in zip(
        jax.tree.leaves(uninterrupted.state), jax.tree.leaves(resumed.state), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_lookahead_run_of_earlier_code_goes_on(tmp_path, monkeypatch, capsys):
    """Its checkpoints have no slow statistics: they start from those that were saved."""
    c = tiny(train__eval_every=6, optimizer__lookahead=4, **CNN)
    with monkeypatch.context() as patch, stopping_at(8):
        patch.setattr(StateSpec, "statistics", lambda self, rest: {})
        before = run(c, tmp_path / "run").state
    assert "slow" not in before
    capsys.readouterr()
    resumed = run(c, tmp_path / "run")
    assert "lookahead did not average BatchNorm statistics" in capsys.readouterr().err
    assert resumed.steps == 12 and saved_steps(tmp_path / "run")[-1] == 12
    # The last step pulls the statistics back to the slow ones.
    last = run(c, tmp_path / "run").state
    for kind in ("mean", "var"):
        rest = last["rest"]["model"]["stages"]["0"]["0"]["norm"][kind]
        slow = last["slow"]["model"]["stages"]["0"]["0"]["norm"][kind]
        np.testing.assert_array_equal(rest, slow)
