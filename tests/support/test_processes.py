"""Two real processes under `jax.distributed`: the same run as one."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.support.processes import finish, start
from vision import cli, main

pytestmark = pytest.mark.long

SMALL = [
    "--config=configs/digits.py",
    "--config.data.limit=64",
    "--config.model.name=vit",
    "--config.model.variant=mu/2",
    "--config.train.batch_size=16",
    "--config.train.eval_every=3",
    "--config.train.steps=6",
    "--config.log.tensorboard=false",
    "--config.optimizer.name=sgd",  # Adam would amplify rounding
]


def parameters(workdir, step):
    """Returns the leaves of a checkpoint's state as NumPy arrays, whatever devices wrote it."""
    path = workdir / "checkpoints" / str(step) / "state"
    checkpointer = ocp.PyTreeCheckpointer()
    tree = checkpointer.metadata(path).item_metadata.tree
    plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return jax.tree.leaves(checkpointer.restore(path, restore_args=plain))


def run(workdir, *more):
    cli.run(main.main, [*SMALL, f"--workdir={workdir}", *more])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Returns the directory of a run of two one-device processes that share one state."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    outcome = finish(start(2, [*SMALL, f"--workdir={workdir}", "--config.parallel.fsdp=2"]))
    assert [code for code, _ in outcome] == [0, 0], outcome
    shown = outcome[0][1]
    assert "2 x cpu in 2 processes, state cut in 2" in shown and "test: loss" in shown
    assert "test: loss" not in outcome[1][1] and "step" not in outcome[1][1]
    return workdir


def test_two_processes_end_with_the_parameters_of_one(two, tmp_path):
    run(tmp_path / "one", "--config.parallel.devices=2")
    for step in (3, 6):
        ours = parameters(tmp_path / "one", step)
        theirs = parameters(two, step)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    results = [json.loads((path / "result.json").read_text()) for path in (tmp_path / "one", two)]
    assert results[0]["confusion"] == results[1]["confusion"]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)


def test_one_process_goes_on_with_what_two_wrote(two, tmp_path, capsys):
    import shutil

    workdir = shutil.copytree(two, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "6")
    (workdir / "result.json").unlink()  # or the run would be finished
    run(workdir, "--config.parallel.devices=4", "--config.parallel.fsdp=4")
    assert "at step 3/6" in capsys.readouterr().err
    for a, b in zip(parameters(workdir, 6), parameters(two, 6), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
