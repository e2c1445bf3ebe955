"""`configs/incremental.py`, as its user gives it to `vision.main`: one increment after the other."""

import pytest

from tests.support.commands import exit_code
from tests.support.mlp_config import mlp_config
from vision.main import main as train
from vision.run.directory import read_run
from vision.training.run import run

STEPS = 12


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run that learned the digits 0 to 2."""
    workdir = tmp_path_factory.mktemp("increments") / "first"
    run(mlp_config("digits?classes=0,1,2", STEPS), workdir)
    return workdir


def go_on(previous, classes, workdir, *flags):
    """Trains on further digits with the command; returns its exit code."""
    config = f"configs/incremental.py:{previous}:digits?classes={classes}"
    fast = ("--config.continual.selection=random", "--config.continual.memory=3/class")
    return exit_code(train, "--config", config, f"--workdir={workdir}", *fast, *flags)


def rate(workdir):
    return read_run(workdir)[0].optimizer.learning_rate


def test_the_learning_rate_is_lowered_once(first, tmp_path):
    assert go_on(first, "3", tmp_path / "second") == 0
    assert rate(tmp_path / "second") == pytest.approx(0.3 * rate(first))
    assert go_on(tmp_path / "second", "4", tmp_path / "third") == 0
    assert rate(tmp_path / "third") == rate(tmp_path / "second")
    assert read_run(tmp_path / "third")[1]["classes"] == ["0", "1", "2", "3", "4"]
