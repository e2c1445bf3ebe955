"""Small runs of the methods in tests/objectives/methods, and what they leave behind."""

import importlib
import json
import pathlib
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.conftest import AS_USERS_DO
from tests.training.test_step import CLASSES
from vision.config import default
from vision.models.layers.streams import Streams
from vision.models.resnet import ResNet
from vision.training.log import RunLog
from vision.training.run import run

METHODS = "tests.objectives.methods"


def small(source="digits", method=""):
    c = default()
    c.data.source = source
    c.data.limit = 64
    c.model.name = "vit"
    c.model.variant = "mu/4"
    c.train.steps = 8
    c.train.batch_size = 16
    c.train.eval_every = 4
    c.log.every = 1
    c.log.tensorboard = False
    c.log.progress = False
    c.parallel.devices = 1
    c.augment.affine = True
    c.strong.affine = True
    c.strong.rotate = 60.0
    if method:
        c.objective.name = f"{METHODS}.{method}"
    return c


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def untimed(workdir):
    return [
        {name: value for name, value in line.items() if name != "train/images_per_second"}
        for line in lines(workdir)
    ]


def checkpoint(workdir, step):
    with pytest.warns(UserWarning, match="[Ss]harding"):
        path = pathlib.Path(workdir).absolute() / "checkpoints" / str(step) / "state"
        return jax.tree.map(np.asarray, ocp.PyTreeCheckpointer().restore(path))


def have_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.tobytes() == y.tobytes() for x, y in pairs)


def everything(folder, **changes):
    c = small(f"arrays:{folder / 'texts.npz'}", "everything")
    c.data.unlabeled = "rest"
    c.data.unlabeled_ratio = 2
    c.objective.options.teacher = str(folder / "teacher")
    c.objective.options.anchor = str(folder / "anchor.safetensors")
    c.checkpoint.metric = "val/norm"
    c.optimizer.ema = 0.9
    c.parallel.xla_options = AS_USERS_DO  # Adam enlarges rounding errors of zero gradients
    for key, value in changes.items():
        section, name = key.split("__")
        c[section][name] = value
    return c


def interrupt_at(step, c, workdir):
    """Trains until a SIGTERM in the middle."""
    advance = RunLog.advance

    def interrupt(log, done):
        advance(log, done)
        if done == step:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "advance", interrupt)
        assert run(c, workdir) is None


def declare(monkeypatch, **declared):
    """Declares something else in the file of MoCo, for one test."""
    moco = importlib.import_module(f"{METHODS}.moco")
    for name, value in declared.items():
        monkeypatch.setattr(moco, name, value, raising=False)


def network(seed, dropout=0.0):
    return ResNet(
        (1, 1),
        4,
        CLASSES,
        bottleneck=False,
        cifar=True,
        option_a=True,
        rngs=Streams(seed),
        dtype=np.dtype("float32"),
        dropout=dropout,
    )


def assert_near(a, b, tolerance):
    """Compares the parameters of two runs after 8 steps.

    A softmax does not depend on the bias of the keys, whose gradient is nothing but rounding, which
    Adam turns into whole steps: it is left out.
    """
    first, second = checkpoint(a, 8), checkpoint(b, 8)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    first_leaves = jax.tree.leaves_with_path(first["params"])
    second_leaves = jax.tree.leaves(second["params"])
    for (path, x), y in zip(first_leaves, second_leaves, strict=True):
        where = jax.tree_util.keystr(path)
        if where.endswith("['qkv']['bias']"):
            x, y = (np.delete(np.split(bias, 3), 1, axis=0) for bias in (x, y))
        np.testing.assert_allclose(x, y, atol=tolerance, err_msg=where)
