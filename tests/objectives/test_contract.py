"""The contract of objectives: methods outside of the package, run by the trainer as it is."""

import json
import pathlib
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from tests.objectives.runs import (
    assert_near,
    checkpoint,
    declare,
    everything,
    have_same_bits,
    interrupt_at,
    lines,
    network,
    small,
    untimed,
)
from tests.training.test_step import IMAGES, LABELS, config, make
from vision import parallel
from vision.data.pipeline import open_data
from vision.errors import UserError
from vision.run.teacher import digest
from vision.run.weights import run_weights
from vision.training.run import run

pytestmark = pytest.mark.long

FILES = pathlib.Path(__file__).parent / "methods"


@pytest.mark.parametrize(("method", "most"), [("fixmatch", 60), ("moco", 70)])
def test_a_method_is_one_short_file(method, most):
    assert len((FILES / f"{method}.py").read_text().splitlines()) < most


def test_fixmatch(tmp_path):
    c = small(method="fixmatch")
    c.data.unlabeled = "rest"
    c.data.unlabeled_ratio = 3
    c.data.labels = "2/class"
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
    assert have_same_bits(before["teacher"], after["teacher"])
    assert not have_same_bits(before["model"], after["model"])
    assert scalars["noise"] == 0


@pytest.fixture(scope="module")
def reference(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference") / "run"
    run(everything(folder), workdir)
    return workdir


def test_everything_at_once(reference, folder):
    state = checkpoint(reference, 8)
    assert set(state["opt"]) == {"critic", "learner"} and "slow" in state["rest"]
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
    assert_near(reference, tmp_path / "run", 2e-4)


def test_what_never_changes_is_kept_once(reference, folder):
    """The run has a copy of its teacher's weights, its checkpoints have none."""
    assert not {"teacher", "anchor"} & set(checkpoint(reference, 8)["rest"])
    _, _, weights = run_weights(folder / "teacher")
    kept = load_file(reference / "teachers" / "teacher.safetensors")
    assert kept.keys() == weights.keys()
    assert all(kept[name].tobytes() == weights[name].tobytes() for name in kept)
    record = json.loads((reference / "teachers.json").read_text())
    assert record["teacher"]["start"] == str(folder / "teacher")
    assert record["teacher"]["sha256"] == digest(weights)
    assert record["anchor"].keys() == {"start", "sha256"}


def test_everything_resumes_to_the_same_bits(reference, folder, tmp_path):
    """After a SIGTERM in the middle; tests/slow/test_contract.py kills with -9."""
    interrupt_at(5, everything(folder), tmp_path / "run")
    assert run(everything(folder), tmp_path / "run")["steps"] == 8
    assert have_same_bits(checkpoint(reference, 8), checkpoint(tmp_path / "run", 8))
    assert untimed(reference)[-1] == untimed(tmp_path / "run")[-1]


def test_a_run_is_resumed_without_its_teacher(reference, folder, tmp_path):
    """A copy of its variables and of its config is in the run directory; a damaged one says so."""
    teacher = tmp_path / "teacher.v1"  # looks like a file's name
    shutil.copytree(folder / "teacher", teacher)
    c = everything(folder)
    c.objective.options.teacher = str(teacher)
    c.checkpoint.every = 2
    interrupt_at(5, c, tmp_path / "run")
    teacher.rename(tmp_path / "moved")
    copy = tmp_path / "run" / "teachers" / "teacher.safetensors"
    content = copy.read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:100]):
        copy.write_bytes(damaged)
        with pytest.raises(UserError, match="teacher.safetensors is damaged"):
            run(c, tmp_path / "run")
    copy.write_bytes(content)
    assert run(c, tmp_path / "run")["steps"] == 8
    ours = checkpoint(tmp_path / "run", 8)
    assert have_same_bits(ours["params"], checkpoint(reference, 8)["params"])


def test_a_head_on_cached_embeddings_resumes_with_its_copies(folder, tmp_path, monkeypatch):
    """A momentum encoder that started from the pretrained model is still there at the end."""
    declare(monkeypatch, INPUTS={"train": ("query",)}, MoCo=Follower)
    declare(monkeypatch, OPTIONS={}, build=lambda c, model: Follower(model))
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
    assert have_same_bits(ours, checkpoint(tmp_path / "whole", 8))
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
    c.data.labels = "2/class"
    loaders = open_data(c, mesh, with_unlabeled=True).loaders
    assert len(loaders["unlabeled"]) == 64 and len(loaders["train"]) <= 20


def test_a_folder_of_pictures_has_no_need_of_classes(tmp_path):
    """At any depth; but of a folder with splits only those to train on are learned from."""
    for name in ("a.png", "day 1/b.png", "day 2/night/c.png"):
        path = tmp_path / "flat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((8, 8), np.uint8))
    for name in ("train/a.png", "train/y/b.png", "test/c.png", "test/y/d.png"):
        path = tmp_path / "split" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((8, 8), np.uint8))
    c = small(method="fixmatch")
    mesh = parallel.make_mesh(1)
    for folder, count in (("flat", 3), ("split", 2)):
        c.data.unlabeled = f"folder:{tmp_path / folder}"
        assert len(open_data(c, mesh, with_unlabeled=True).loaders["unlabeled"]) == count
    (tmp_path / "empty").mkdir()
    c.data.unlabeled = f"folder:{tmp_path / 'empty'}"
    with pytest.raises(UserError, match="has no images"):
        open_data(c, mesh, with_unlabeled=True)
