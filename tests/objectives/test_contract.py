"""The contract of objectives: methods outside of the package, run by the trainer as it is."""

import importlib
import json
import pathlib
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from safetensors.numpy import save_file

from tests.training.test_step import BATCH, CLASSES, IMAGES, LABELS, SIDE, config, make
from vision import cli, main, objectives, parallel
from vision.config import default
from vision.data.pipeline import open_data
from vision.data.sources import open_splits
from vision.errors import UserError
from vision.models.resnet import ResNet
from vision.models.vit import ViT
from vision.objectives.supervised import Supervised
from vision.run.weights import run_weights
from vision.training.log import RunLog
from vision.training.run import run

METHODS = "tests.objectives.methods"
FILES = pathlib.Path(__file__).parent / "methods"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits with texts as an .npz file, a trained teacher, and an anchor's weights."""
    folder = tmp_path_factory.mktemp("contract")
    digits = open_splits("digits")["all"]
    generator = np.random.RandomState(0)
    np.savez(
        folder / "texts.npz",
        images=digits.images[:200],
        labels=digits.labels[:200],
        fields_text=generator.rand(200, 5).astype(np.float32),
    )
    teacher = small(f"arrays:{folder / 'texts.npz'}")
    teacher.model.name = "tests.support.tiny_resnet"
    teacher.train.steps = 6
    run(teacher, folder / "teacher")
    width = 32
    save_file(
        {
            "kernel": generator.randn(width, 8).astype(np.float32),
            "bias": np.zeros(8, np.float32),
        },
        folder / "anchor.safetensors",
    )
    return folder


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


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.tobytes() == y.tobytes() for x, y in pairs)


@pytest.mark.parametrize(("method", "most"), [("fixmatch", 60), ("moco", 70)])
def test_a_method_is_one_short_file(method, most):
    assert len((FILES / f"{method}.py").read_text().splitlines()) < most


def test_fixmatch(tmp_path):
    c = small(method="fixmatch")
    c.data.unlabeled = "rest"
    c.data.unlabeled_ratio = 3
    c.data.per_class = 2
    c.objective.options.threshold = 0.05
    result = run(c, tmp_path / "run")
    assert result["steps"] == 8 and result["split_sizes"]["train"] <= 20
    assert result["split_sizes"]["unlabeled"] == 64
    confident = [
        line["train/confident"] for line in lines(tmp_path / "run") if "train/loss" in line
    ]
    assert min(confident) == 1.0


def test_moco(tmp_path):
    c = small(method="moco")
    c.checkpoint.metric = "val/knn"
    c.objective.options.queue = 32
    result = run(c, tmp_path / "run")
    measured = {
        line["step"]: line["val/knn"] for line in lines(tmp_path / "run") if "val/knn" in line
    }
    assert set(measured) == {4, 8}
    assert measured[result["best_step"]] == max(measured.values())
    state = checkpoint(tmp_path / "run", 8)
    assert "slow" in state["rest"] and "slow" not in state["params"]
    _, _, weights = run_weights(tmp_path / "run")  # what is exported is the model alone
    assert not any(name.startswith(("slow", "projection")) for name in weights)


def test_moco_starts_from_pretrained_weights(folder, tmp_path):
    """The momentum encoder is a copy of the model with its pretrained weights, BatchNorm too."""
    c = small(f"arrays:{folder / 'texts.npz'}", "moco")
    c.model.name = "tests.support.tiny_resnet"
    c.model.pretrained = str(folder / "teacher")
    c.train.steps = 1
    c.optimizer.learning_rate = 0.0
    run(c, tmp_path / "run")
    state = checkpoint(tmp_path / "run", 1)
    _, _, weights = run_weights(folder / "teacher")
    flat = nnx.traversals.flatten_mapping(state["rest"]["slow"])
    assert len(flat) == len(weights) > 4
    for path, array in flat.items():
        np.testing.assert_allclose(array, weights[".".join(path)], rtol=1e-6)


def test_two_players(tmp_path):
    """Each moves its own attributes, with an optimizer state of its own."""
    c = small(method="gan")
    c.data.image_size = 8
    c.data.channels = 1
    result = run(c, tmp_path / "run")
    assert result["steps"] == 8
    state = checkpoint(tmp_path / "run", 8)
    assert set(state["opt"]) == {"critic", "generator"}
    before = checkpoint(tmp_path / "run", 4)["params"]
    for attribute in ("model", "judge", "generator"):
        changed = jax.tree.map(
            lambda a, b: np.abs(a - b).max(), before[attribute], state["params"][attribute]
        )
        moved = max(jax.tree.leaves(changed))
        assert moved > 0, attribute
    last = lines(tmp_path / "run")[-2]
    assert last["train/loss"] == pytest.approx(
        last["train/critic_loss"] + last["train/generator_loss"], rel=1e-5
    )


def network(seed, dropout=0.0):
    return ResNet(
        (1, 1),
        4,
        CLASSES,
        bottleneck=False,
        cifar=True,
        rngs=nnx.Rngs(seed),
        dtype=np.dtype("float32"),
        dropout=dropout,
    )


def test_a_frozen_teacher_stays_as_it_is():
    """Its BatchNorm statistics do not move, and its dropout is off."""

    class Distilled(nnx.Module):
        frozen = ("teacher",)

        def __init__(self):
            self.model = network(0)
            self.teacher = network(1, dropout=0.5)

        def loss(self, batch):
            once = self.teacher(batch["image"])
            again = self.teacher(batch["image"])
            student = self.model(batch["image"])
            return jnp.square(student - once).mean(), {"noise": abs(once - again).max()}

    step = make(config("float32"), Distilled)
    state = step.initialize()
    before = jax.device_get(state["rest"])
    for i in range(2):
        state, scalars = step.update(state, {"image": IMAGES[i], "label": LABELS[i]}, {})
    after = jax.device_get(state["rest"])
    assert same_bits(before["teacher"], after["teacher"])
    assert not same_bits(before["model"], after["model"])
    assert scalars["noise"] == 0


def everything(folder, **changes):
    c = small(f"arrays:{folder / 'texts.npz'}", "everything")
    c.data.unlabeled = "rest"
    c.data.unlabeled_ratio = 2
    c.objective.options.teacher = str(folder / "teacher")
    c.objective.options.anchor = str(folder / "anchor.safetensors")
    c.checkpoint.metric = "val/norm"
    c.optimizer.ema = 0.9
    for key, value in changes.items():
        section, name = key.split("__")
        c[section][name] = value
    return c


@pytest.fixture(scope="module")
def reference(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference") / "run"
    run(everything(folder), workdir)
    return workdir


def test_everything_at_once(reference, folder):
    state = checkpoint(reference, 8)
    _, _, teacher = run_weights(folder / "teacher")
    flat = nnx.traversals.flatten_mapping(state["rest"]["teacher"])
    for path, array in flat.items():
        assert array.tobytes() == teacher[".".join(path)].tobytes()
    assert set(state["opt"]) == {"critic", "learner"} and "anchor" in state["rest"]
    assert {"val/knn", "val/norm", "val/accuracy"} <= lines(reference)[-1].keys()
    assert np.isfinite([line.get("train/loss", 0.0) for line in lines(reference)]).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"train__steps_per_dispatch": 4},
        {"data__resident_gib": 0.0, "data__workers": 0},
    ],
    ids=["several steps per dispatch", "loaded"],
)
def test_everything_ends_with_the_same_numbers(changes, reference, folder, tmp_path):
    run(everything(folder, **changes), tmp_path / "run")
    _assert_near(reference, tmp_path / "run", 2e-4)


def test_everything_on_eight_devices(reference, folder, tmp_path):
    run(everything(folder, parallel__devices=8), tmp_path / "run")
    _assert_near(reference, tmp_path / "run", 5e-3)


def _assert_near(a, b, tolerance):
    first, second = checkpoint(a, 8), checkpoint(b, 8)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for x, y in zip(
        jax.tree.leaves(first["params"]), jax.tree.leaves(second["params"]), strict=True
    ):
        np.testing.assert_allclose(x, y, atol=tolerance)


def test_everything_resumes_to_the_same_bits(reference, folder, tmp_path):
    """After a SIGTERM in the middle; tests/slow/test_contract.py kills with -9."""
    interrupt_at(5, everything(folder), tmp_path / "run")
    assert run(everything(folder), tmp_path / "run")["steps"] == 8
    assert same_bits(checkpoint(reference, 8), checkpoint(tmp_path / "run", 8))
    assert untimed(reference)[-1] == untimed(tmp_path / "run")[-1]


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
        ({"data.unlabeled": "rest"}, "takes no unlabeled images"),
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


def module(monkeypatch, **declared):
    """Declares something else in the file of MoCo, for one test."""
    moco = importlib.import_module(f"{METHODS}.moco")
    for name, value in declared.items():
        monkeypatch.setattr(moco, name, value)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"INPUTS": {"train": "query"}}, "must name a tuple of views for 'train'"),
        ({"INPUTS": {"train": ("query", "label")}}, "has a view 'label'"),
        ({"INPUTS": {"train": ("query", "key"), "val": ("image",)}}, "'val' is unknown"),
        ({"MEASURES": "knn"}, "MEASURES of the objective"),
        ({"MEASURES": ()}, "and () without validate"),
        ({"starts": lambda c: {"slwo": "model"}}, "no attribute 'slwo' with variables"),
        ({"starts": lambda c: {"slow": "/nowhere/run"}}, "'slow' of the objective"),
        ({"starts": lambda c: {"projection": "model"}}, "starts from has no variable"),
    ],
)
def test_declarations_are_checked_before_anything_is_written(
    declared, message, tmp_path, monkeypatch
):
    module(monkeypatch, **declared)
    assert message in _error(small(method="moco"), tmp_path)


def test_an_architecture_needs_a_run(folder, tmp_path):
    c = everything(folder)
    c.objective.options.teacher = str(folder / "anchor.safetensors")
    assert "'teacher' of the objective" in (message := _error(c, tmp_path))
    assert "must start from the directory of a run" in message


def test_a_teacher_takes_the_same_images(folder, tmp_path):
    c = everything(folder)
    c.data.normalize = "unit"
    message = _error(c, tmp_path)
    assert message.startswith("'teacher' was trained with data.normalize = symmetric")


def test_a_run_is_resumed_without_its_teacher(reference, folder, tmp_path):
    """Its variables are in the checkpoints, and a copy of its config beside them."""
    teacher = tmp_path / "teacher"
    shutil.copytree(folder / "teacher", teacher)
    c = everything(folder)
    c.objective.options.teacher = str(teacher)
    c.checkpoint.every = 2
    interrupt_at(5, c, tmp_path / "run")
    teacher.rename(tmp_path / "moved")
    assert run(c, tmp_path / "run")["steps"] == 8
    ours = checkpoint(tmp_path / "run", 8)
    assert same_bits(ours["params"], checkpoint(reference, 8)["params"])


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


def test_a_head_on_cached_embeddings_resumes_with_its_copies(folder, tmp_path, monkeypatch):
    """A momentum encoder that started from the pretrained model is still there at the end."""
    module(monkeypatch, INPUTS={"train": ("query",)}, MoCo=Follower)
    module(monkeypatch, OPTIONS={}, build=lambda c, model: Follower(model))
    c = small(f"arrays:{folder / 'texts.npz'}", "moco")
    c.augment.affine = False
    c.model.name = "tests.support.tiny_resnet"
    c.model.pretrained = str(folder / "teacher")
    c.transfer.mode = "head"
    c.transfer.cache_embeddings = True
    run(c, tmp_path / "whole")
    interrupt_at(5, c, tmp_path / "run")
    assert run(c, tmp_path / "run")["steps"] == 8
    ours = checkpoint(tmp_path / "run", 8)
    assert same_bits(ours, checkpoint(tmp_path / "whole", 8))
    _, _, weights = run_weights(folder / "teacher")
    slow = nnx.traversals.flatten_mapping(ours["rest"]["slow"])
    assert all(array.tobytes() == weights[".".join(p)].tobytes() for p, array in slow.items())


class Follower(nnx.Module):
    """Learns from labels, beside a copy of the model."""

    frozen = ("slow",)

    def __init__(self, model):
        self.model = model
        self.slow = nnx.clone(model)

    def loss(self, batch):
        logits = self.model(batch["query"])
        return -(batch["label"] * jax.nn.log_softmax(logits)).sum(-1).mean(), {}


def test_unlabeled_images_are_for_training_only(tmp_path):
    """Evaluating such a run opens its own splits alone; the same images share their arrays."""
    c = small(method="fixmatch")
    c.data.unlabeled = "rest"
    mesh = parallel.make_mesh(1)
    assert set(open_data(c, mesh).loaders) == {"train", "val", "test"}
    loaders = open_data(c, mesh, with_unlabeled=True).loaders
    assert loaders["unlabeled"].data is loaders["train"].data
    orders = [loaders[name].dataset.sampler.indices(0, 64) for name in ("train", "unlabeled")]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0].tolist() != orders[1].tolist()
    c.data.per_class = 2
    loaders = open_data(c, mesh, with_unlabeled=True).loaders
    assert len(loaders["unlabeled"]) == 64 and len(loaders["train"]) <= 20


def test_an_objective_without_options_has_none(tmp_path):
    c = small()
    c.objective.options.weight = 1.0
    assert "the objective 'supervised' has no options" in _error(c, tmp_path)


def test_unlabeled_images_are_asked_for(tmp_path):
    assert "set data.unlabeled to a source" in _error(small(method="fixmatch"), tmp_path)


def test_a_start_that_is_nothing(folder, tmp_path):
    c = everything(folder)
    c.objective.options.anchor = str(folder / "texts.npz")
    assert "it must be 'model', a run directory or a .safetensors file" in _error(c, tmp_path)


def test_a_start_of_an_attribute_that_there_is_not():
    step = make(config("float32"), lambda: Supervised(network(0)))
    with pytest.raises(UserError, match="no attribute 'head.kernel' with variables"):
        step.start_from(step.initialize(), {"head.kernel": np.zeros(3)})


def test_a_start_that_does_not_fit(folder, tmp_path):
    save_file({"kernel": np.zeros((3, 3), np.float32)}, tmp_path / "other.safetensors")
    c = everything(folder)
    c.objective.options.anchor = str(tmp_path / "other.safetensors")
    message = _error_after_opening(c, tmp_path)
    assert "anchor" in message


def _error_after_opening(c, tmp_path):
    with pytest.raises(UserError) as caught:
        run(c, tmp_path / "run")
    return str(caught.value)


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
            self.model = ViT(16, 1, 2, 4, CLASSES, image_size=SIDE, rngs=nnx.Rngs(0))
            self.other = nnx.Linear(2, 2, rngs=nnx.Rngs(1))

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


def test_the_batch_is_as_large_as_the_step_says():
    assert len(IMAGES[0]) == BATCH
