"""A sequence of tasks with two real processes: the same as with one."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.processes import finish, start
from vision.continual.__main__ import main as sequence

pytestmark = pytest.mark.long

SEQUENCE = [
    "--config=configs/split_fashion_mnist.py:task:ewc",
    "--config.data.source=digits",
    "--config.continual.tasks=?classes=0,1 | ?classes=2,3",
    "--config.model.variant=16x1",
    "--config.objective.options.si=0.1",
    "--config.optimizer.name=sgd",  # Adam would amplify rounding
    "--config.optimizer.learning_rate=0.1",
    "--config.train.steps=6",
    "--config.train.eval_every=6",
    "--config.train.batch_size=16",
    "--config.train.eval_batch_size=16",
    "--config.continual.fisher_images=40",
    "--config.log.progress=false",
]
FILES = ("sequence.json", "sequence.csv", "sequence.png", "elapsed.json")


def test_two_processes_measure_what_one_does(tmp_path):
    workdir = tmp_path / "two"
    arguments = [*SEQUENCE, f"--workdir={workdir}"]
    outcome = finish(start(2, arguments, module="vision.continual"), timeout=900)
    assert [code for code, _ in outcome] == [0, 0], outcome
    assert "2 x cpu in 2 processes" in outcome[0][1] and "average accuracy" in outcome[0][1]
    assert "average accuracy" not in outcome[1][1]
    assert all((workdir / name).is_file() for name in FILES)
    sequence([*SEQUENCE, f"--workdir={tmp_path / 'one'}", "--config.parallel.devices=1"])
    results = [
        json.loads((path / "sequence.json").read_text()) for path in (tmp_path / "one", workdir)
    ]
    assert results[0]["matrix"] == results[1]["matrix"]
    for kind in ("fisher", "si"):
        ours, theirs = (
            load_file(path / f"task-1/importance/{kind}.safetensors")
            for path in (tmp_path / "one", workdir)
        )
        for name, array in ours.items():
            np.testing.assert_allclose(theirs[name], array, rtol=1e-3, atol=1e-6)
