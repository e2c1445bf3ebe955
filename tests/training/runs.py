"""Runs of seconds on 64 digits, and what they leave behind."""

import contextlib
import json
import os
import signal

import pytest

from vision import parallel
from vision.config import default
from vision.data.pipeline import open_data
from vision.run.directory import open_workdir
from vision.training.log import RunLog
from vision.training.loop import train

SCALARS = ("loss", "accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1")


def tiny(**changes):
    """12 steps on 64 digits; `changes` are flattened keys with a double underscore for the
    point."""
    c = default()
    c.data.source = "digits"
    c.data.limit = 64
    c.model.name = "vit"
    c.model.variant = "mu/2"
    c.train.steps = 12
    c.train.batch_size = 16
    c.train.eval_every = 4
    c.log.every = 2
    c.log.tensorboard = False
    c.parallel.devices = 1
    c.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return c


def run(c, workdir):
    """Trains as `vision.main` does; returns the `Outcome`."""
    mesh = parallel.make_mesh(c.parallel.devices)
    return train(c, open_data(c, mesh), open_workdir(workdir, c), mesh)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def values(workdir, name):
    return [(line["step"], line[name]) for line in lines(workdir) if name in line]


def saved_steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


@contextlib.contextmanager
def stopping_at(step):
    """Sends this process the signal to stop once `step` steps are done."""
    advance = RunLog.advance

    def noticing(self, done):
        advance(self, done)
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "advance", noticing)
        yield


CNN = {"model__name": "cnn", "model__variant": "small"}  # with BatchNorm
