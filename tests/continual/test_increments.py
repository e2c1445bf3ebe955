"""`configs/incremental.py`, as its user gives it to `vision.main`: one increment after another."""

import numpy as np
import pytest

from tests.support.commands import exit_code, outcome
from tests.support.mlp_config import mlp_config
from vision.compression.prune import main as prune
from vision.inference import from_run
from vision.main import main as train
from vision.run.classes import main as change_classes
from vision.run.directory import read_run
from vision.run.resolve import grow_head, resolve_config
from vision.training.run import run

pytestmark = pytest.mark.long

STEPS = 12
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run that learned the digits 0 to 2."""
    workdir = tmp_path_factory.mktemp("increments") / "first"
    run(mlp_config("digits?classes=0,1,2", STEPS), workdir)
    return workdir


@pytest.fixture(scope="module")
def merged(first):
    """The run with one class of 1 and 2."""
    out = first.parent / "merged"
    flags = (f"--workdir={first}", f"--out={out}", "--merge=some=1,2")
    assert exit_code(change_classes, *flags) == 0
    return out


def smaller(workdir, out):
    assert exit_code(prune, f"--workdir={workdir}", f"--out={out}", "--ratio=0.3") == 0
    return out


def increment(previous, classes, workdir, *flags):
    """Returns the words of the command that goes on with further digits."""
    config = f"configs/incremental.py:{previous}:digits?classes={classes}"
    fast = ("--config.continual.selection=random", "--config.continual.memory=3/class")
    return "--config", config, f"--workdir={workdir}", *fast, *flags


def rate(workdir):
    return read_run(workdir)[0].optimizer.learning_rate


def test_the_learning_rate_is_lowered_once(first, tmp_path):
    assert exit_code(train, *increment(first, "3", tmp_path / "second")) == 0
    assert rate(tmp_path / "second") == pytest.approx(0.3 * rate(first))
    assert exit_code(train, *increment(tmp_path / "second", "4", tmp_path / "third")) == 0
    assert rate(tmp_path / "third") == rate(tmp_path / "second")
    assert read_run(tmp_path / "third")[1]["classes"] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("case", ["merged", "pruned", "merged and pruned"])
def test_a_changed_model_learns_a_new_class(case, first, merged, tmp_path, capsys):
    """It starts with all that it knew, and the same command resumes it."""
    previous = merged if "merged" in case else first
    if "pruned" in case:
        previous = smaller(previous, tmp_path / "small")
    before = from_run(previous)(IMAGES)[0]
    frozen = ("--config.optimizer.learning_rate=0.0", "--config.train.steps=2")
    words = increment(previous, "3,4", tmp_path / "run", *frozen)
    assert exit_code(train, *words) == 0
    classes = read_run(previous)[1]["classes"]
    config, data = read_run(tmp_path / "run")
    assert data["classes"] == [*classes, "3", "4"]
    assert config.model.head_groups == ((0, 1, 1, 2, 3) if "merged" in case else ())
    after = from_run(tmp_path / "run")(IMAGES)[0]
    np.testing.assert_allclose(after[:, : len(classes)], before, atol=1e-5)
    capsys.readouterr()
    assert outcome(train, capsys, *words)[1].startswith("finished already")
    (tmp_path / "run/result.json").unlink()
    assert exit_code(train, *words) == 0


def test_a_run_without_trace_of_the_merge_in_its_config(merged):
    """The head is that of the previous run, which the config need not describe."""
    c = mlp_config("digits?classes=3", STEPS)
    c.continual.previous = str(merged)
    grown = grow_head(resolve_config(c), 3, 8, 1)
    assert grown.model.head_groups == (0, 1, 1, 2)
    c.transfer.new_head = True
    assert resolve_config(c).model.head_groups == ()
