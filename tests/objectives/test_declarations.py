"""What an objective declares, and what the config says of it, is checked before a run begins."""

import json

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from tests.objectives.runs import (
    METHODS,
    declare,
    everything,
    network,
    small,
)
from tests.training.test_step import CLASSES, SIDE, config, make
from vision import cli, main, objectives
from vision.config import default
from vision.errors import UserError
from vision.models.layers.streams import Streams
from vision.models.vit import ViT
from vision.objectives.supervised import Supervised
from vision.training.run import run


def _error(c, tmp_path):
    with pytest.raises(UserError) as caught:
        run(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective.options.temperatur": 1.0}, "did you mean 'temperature'"),
        ({"objective.options.temperature": "hot"}, "must be of type float, like its default"),
        ({"objective.options.queue": 1.5}, "must be of type int"),
        ({"train.accumulate": 2}, "train.accumulate must be 1"),
        ({"augment.mixup": 0.2}, "augment.mixup mixes labels"),
        ({"data.unlabeled": "rest"}, "does not use unlabeled images"),
        ({"checkpoint.metric": "val/kn"}, "did you mean 'val/knn'"),
    ],
)
def test_what_does_not_fit_is_refused(change, message, tmp_path):
    c = small(method="moco")
    for key, value in change.items():
        *sections, name = key.split(".")
        node = c
        for section in sections:
            node = node[section]
        node[name] = value
    assert message in _error(c, tmp_path)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"INPUTS": {"train": "query"}}, "must name a tuple of views for 'train'"),
        ({"INPUTS": {"train": ("query", "label")}}, "has a view 'label'"),
        ({"INPUTS": {"train": ("query", "key"), "val": ("image",)}}, "'val' is unknown"),
        ({"MEASURES": "knn"}, "MEASURES of the objective"),
        ({"MEASURES": ()}, "and () without validate"),
        ({"MEASURES": {"knn": "most"}}, "'most' is unknown"),
        ({"starts": lambda c: {"slwo": "model"}}, "no attribute 'slwo' with variables"),
        ({"starts": lambda c: {"slow": "/nowhere/run"}}, "'slow' of the objective"),
        ({"starts": lambda c: {"projection": "model"}}, "starts from has no variable"),
    ],
)
def test_declarations_are_checked_before_anything_is_written(
    declared, message, tmp_path, monkeypatch
):
    declare(monkeypatch, **declared)
    assert message in _error(small(method="moco"), tmp_path)


def test_an_architecture_needs_a_run(folder, tmp_path):
    c = everything(folder)
    c.objective.options.teacher = str(folder / "anchor.safetensors")
    assert "'teacher' of the objective" in (message := _error(c, tmp_path))
    assert "must start from a trained model" in message


def test_a_teacher_takes_the_same_images(folder, tmp_path):
    c = everything(folder)
    c.data.normalize = "unit"
    message = _error(c, tmp_path)
    assert message.startswith("'teacher' was trained with data.normalize = symmetric")


def test_an_objective_without_options_has_none(tmp_path):
    c = small()
    c.objective.options.weight = 1.0
    assert "the objective 'supervised' has no options" in _error(c, tmp_path)


def test_unlabeled_images_are_asked_for(tmp_path):
    assert "set data.unlabeled to a source" in _error(small(method="fixmatch"), tmp_path)


def test_a_strong_view_is_augmented(tmp_path):
    c = small(method="fixmatch")
    c.data.unlabeled = "rest"
    c.strong = default().strong
    assert "no key of strong is set" in _error(c, tmp_path)


def test_the_last_checkpoint_never_stalls(tmp_path):
    c = small()
    c.early_stopping.enabled = True
    c.checkpoint.metric = "val/step"
    assert "needs a metric that can stall" in _error(c, tmp_path)


def test_keys_that_an_objective_does_not_use(tmp_path, monkeypatch):
    declare(monkeypatch, USES=("label_smoothing",))
    c = small(method="moco")
    c.objective.label_smoothing = 0.1
    c.objective.focal_gamma = 2.0
    assert "objective.focal_gamma = 2.0 has no effect" in _error(c, tmp_path)


def test_a_start_that_is_nothing(folder, tmp_path):
    c = everything(folder)
    c.objective.options.anchor = str(folder / "texts.npz")
    assert "it must be 'model', a trained model" in _error(c, tmp_path)


def test_a_start_of_an_attribute_that_there_is_not():
    step = make(config("float32"), lambda: Supervised(network(0)))
    with pytest.raises(UserError, match="no attribute 'head.kernel' with variables"):
        step.start_from(step.initialize(), {"head.kernel": np.zeros(3)})


def test_a_start_that_does_not_fit(folder, tmp_path):
    save_file({"kernel": np.zeros((3, 3), np.float32)}, tmp_path / "other.safetensors")
    c = everything(folder)
    c.objective.options.anchor = str(tmp_path / "other.safetensors")
    message = _error(c, tmp_path)
    assert "anchor" in message


@pytest.mark.parametrize(
    ("frozen", "players", "message"),
    [
        (("teacher",), {}, "frozen names 'teacher'"),
        ((), {"one": ("model",)}, "'other' learns, but no player"),
        ((), {"one": ("model", "other"), "two": ("other",)}, "two players"),
        ((), {"one": ("model", "other", "third")}, "'third', which has nothing to learn"),
    ],
)
def test_attributes_that_do_not_fit(frozen, players, message):
    class Odd(nnx.Module):
        def __init__(self):
            self.model = ViT(16, 1, 2, 4, CLASSES, image_size=SIDE, rngs=Streams(0))
            self.other = nnx.Linear(2, 2, rngs=Streams(1))

    Odd.frozen = frozen
    Odd.players = players
    with pytest.raises(UserError, match=message):
        make(config("float32"), Odd)


def test_options_on_the_command_line(tmp_path):
    flags = {
        "model.name": "vit",
        "model.variant": "mu/4",
        "model.batch_norm_groups": None,
        "model.stochastic_depth": None,
        "parallel.devices": 1,
        "augment.affine": False,
        "augment.mixup": 0.0,
        "augment.cutmix": 0.0,
        "objective.name": f"{METHODS}.moco",
        "objective.options.queue": 16,
        "objective.options.momentum": 0,
    }
    argv = ["--config", "configs/digits.py:smoke", f"--workdir={tmp_path / 'run'}"]
    argv += [f"--config.{key}={value}" for key, value in flags.items()]
    cli.run(main.main, argv)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["config"]["objective"]["options"] == {"queue": 16, "momentum": 0}


def test_supervised_declares_nothing():
    definition = objectives.define(default().objective)
    assert definition.inputs == {"train": ("image",)} and definition.measures == ()
    assert not definition.starts and definition.validate is None
    assert definition.doubts(("a", "b"), np.array([1, 0])) == []
