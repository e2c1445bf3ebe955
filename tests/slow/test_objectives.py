"""What every objective must hold: the same bits after kill -9, the same numbers anywhere."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.objectives.conftest import folder
from tests.objectives.every import CASES, case
from tests.objectives.runs import assert_near, checkpoint, have_same_bits, untimed
from vision import models, objectives, parallel
from vision.data.pipeline import open_data
from vision.run.resolve import describe_fields, resolve_config
from vision.run.splits import past_of_training
from vision.training.memory import chooser
from vision.training.run import run
from vision.training.setup import build_step, training_loader
from vision.training.starts import Starts
from vision.training.teachers import read_teachers

__all__ = ["folder"]  # the fixture

COMMAND = (
    "import json, sys\n"
    "from vision.config.load import from_dict\n"
    "from vision.training.run import run\n"
    "run(from_dict(json.load(open(sys.argv[1]))), sys.argv[2])"
)
STEPS = 3


@pytest.fixture(scope="module", params=CASES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def whole(name, folder, tmp_path_factory):
    """A run without an interruption."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert run(case(name, folder), workdir)["steps"] == 8
    return workdir


def test_resumes_after_kill_9(name, whole, folder, tmp_path):
    config = case(name, folder, checkpoint__every=1)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.to_dict()))
    workdir = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", COMMAND, str(file), str(workdir)])
    deadline = time.monotonic() + 300
    while not list(workdir.glob("checkpoints/[1-7]")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run(config, workdir)["steps"] == 8
    assert have_same_bits(checkpoint(workdir, 8), checkpoint(whole, 8))
    assert untimed(workdir)[-1] == untimed(whole)[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"train__steps_per_dispatch": 4},
        {"data__resident_gib": 0.0, "data__workers": 0},
    ],
    ids=["several steps per dispatch", "loaded"],
)
def test_ends_with_the_same_numbers(changes, name, whole, folder, tmp_path):
    run(case(name, folder, **changes), tmp_path / "run")
    assert_near(whole, tmp_path / "run", 2e-4)


def test_same_on_eight_devices(name, folder, float64, monkeypatch):
    monkeypatch.setattr(models, "DTYPES", (*models.DTYPES, "float64"))
    one, eight = (_parameters(case(name, folder), devices) for devices in (1, 8))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-10)


def _parameters(config, devices):
    """Returns the parameters after a few steps, in float64."""
    config.parallel.devices = devices
    config.model.dtype = "float64"
    nowhere = pathlib.Path("nowhere")
    config = resolve_config(config)
    mesh = parallel.make_mesh(devices)
    past = past_of_training(nowhere, config, chooser(config, mesh))
    data = open_data(config, mesh, with_unlabeled=True, past=past)
    config = describe_fields(config, data.encoder)
    definition = objectives.define(config.objective, config.continual.previous)
    teachers = read_teachers(config, data, definition, None)
    for teacher in teachers.values():
        teacher.config.model.dtype = "float64"
    step = build_step(config, data, mesh, STEPS, teachers)
    starts = Starts(config, data, nowhere, definition, teachers, step.constant)
    loader = training_loader(config, data, definition)
    start = starts.state(step, loader)
    state = step.begin(*(_widened(start[part]) for part in ("params", "rest")))
    plan = [(i, 1) for i in range(STEPS)]
    for batch in loader.train_batches(plan, config.train.batch_size):
        state, scalars = step.update(state, batch, loader.data)
    assert np.isfinite(scalars["loss"])
    return parallel.fetch(state["params"])


def _widened(tree):
    def widen(array):
        array = np.asarray(array)
        return array.astype(np.float64) if array.dtype == np.float32 else array

    return jax.tree.map(widen, tree)
