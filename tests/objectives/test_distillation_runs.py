"""Distillation in small runs, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from tests.objectives.runs import checkpoint, lines, network, small
from vision import objectives
from vision.config import default
from vision.errors import UserError
from vision.models.layers.streams import Streams
from vision.models.vit import ViT
from vision.models.weights.published import imagenet_classes
from vision.run.teacher import check_same_classes
from vision.run.weights import run_weights
from vision.training.run import run

pytestmark = pytest.mark.long

CLASSES = 5
NAMES = tuple("abcde")


class Headed(nnx.Module):
    """A model that has a head, and nothing else that a hint needs."""

    def __init__(self):
        self.head = nnx.Linear(2, CLASSES, rngs=Streams(0))


class Teachers(dict):
    """What `build` is given of a teacher."""

    def __init__(self, teacher, classes=NAMES):
        super().__init__(teacher=teacher)
        self.classes = {"teacher": classes}
        self.image_shapes = {"teacher": (8, 8, 3)}


def build(name="distillation", model=network, classes=NAMES, **options):
    c = default()
    c.objective.name = name
    c.objective.options.update({"teacher": "runs/teacher"} | options)
    return objectives.define(c.objective).build(
        model(0),
        class_counts=np.ones(CLASSES),
        classes=NAMES,
        rngs=Streams(0),
        architectures=Teachers(network(1), classes),
    )


def distilled_vit(seed):
    return ViT(16, 1, 2, 4, CLASSES, image_size=8, distilled=True, rngs=Streams(seed))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": ""}, "objective.options.teacher is empty: set it to the directory of a"),
        ({"kind": "sof"}, "did you mean 'soft'"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": float("inf")}, "temperature must be above 0, got inf"),
        ({"hint_weight": -1.0}, "hint_weight must be at least 0"),
        ({"hint": "stage.1"}, r"hint = 'stage.1' is unknown .*stages.1.*\(maps of the student\)"),
        (
            {"hint": "stages.1", "hint_teacher": "blocks.0"},
            r"hint_teacher = 'blocks.0' is unknown.*\(maps of the teacher\)",
        ),
        ({"hint_teacher": "stages.1"}, "needs objective.options.hint too"),
        ({"alpha": 1.0, "model": distilled_vit}, r"alpha must be in \(0, 1\) for a model with a"),
        ({"hint": "x", "model": lambda seed: Headed()}, "the student has no features"),
        ({"classes": NAMES[:4]}, "the teacher has 4 classes, but the data of this run have 5"),
        ({"classes": tuple("abdce")}, "class 2 is 'd' for the teacher, but 'c' in the data"),
        ({"name": "embedding_distillation", "hidden": -1}, "hidden must be at least 1, or 0"),
        ({"name": "embedding_distillation", "teacher": ""}, "objective.options.teacher is empty"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(UserError, match=message) as caught:
        build(**options)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_map_that_is_no_image_is_refused():
    class Flat(Headed):
        def features(self, images):
            return {"flat": images.reshape(len(images), -1)}

    with pytest.raises(UserError, match=r"hint = 'flat': its shape \(192,\) is not that of a fea"):
        build(model=lambda seed: Flat(), hint="flat", hint_teacher="stages.1")


def test_a_convolution_teaches_a_vit_hints():
    objective = build(model=distilled_vit, hint="blocks.0", hint_teacher="stages.1")
    assert objective.hint.regressor.kernel.shape == (16, 8)
    images = jnp.zeros((2, 8, 8, 3))
    batch = {"image": images, "label": jnp.zeros((2, CLASSES))}
    objective.teacher.eval()
    _, scalars = nnx.eval_shape(lambda objective: objective.loss(batch), objective)
    assert {"hint_loss", "teacher_loss"} < set(scalars)


def test_classes_of_published_weights():
    """ImageNet's IDs and names are the same classes; numbers are not names."""
    ids, words = map(tuple, zip(*imagenet_classes(), strict=True))
    check_same_classes("key", ids, words)
    check_same_classes("key", NAMES, tuple("01234"))
    with pytest.raises(UserError, match="class 0 is 'goldfish' for the teacher, but 'tench'"):
        check_same_classes("key", ids, (words[1], words[0], *words[2:]))


def taught(folder, name="distillation", **options):
    c = small(f"arrays:{folder / 'texts.npz'}")
    c.objective.name = name
    c.objective.options.update({"teacher": str(folder / "teacher")} | options)
    c.train.steps = 4
    c.train.eval_every = 2
    return c


def assert_teacher_is_kept(folder, workdir):
    """The run has the teacher's bits, its checkpoints and its exported model have none of it."""
    _, _, theirs = run_weights(folder / "teacher")
    kept = load_file(workdir / "teachers" / "teacher.safetensors")
    assert kept.keys() >= theirs.keys()
    assert all(kept[name].tobytes() == theirs[name].tobytes() for name in theirs)
    state = checkpoint(workdir, 4)
    assert "teacher" not in state["rest"] and "teacher" not in state["params"]
    _, _, ours = run_weights(workdir)
    assert not any(name.startswith(("teacher", "hint", "regressor")) for name in ours)


def test_a_patient_and_consistent_run(folder, tmp_path):
    """alpha=1, mixup and a hint: labels do not count."""
    c = taught(folder, alpha=1.0, temperature=1.0, hint="stages.0", hint_teacher="stages.1")
    c.model.name = "cnn"
    c.model.variant = "mu"
    c.augment.mixup = 1.0
    assert run(c, tmp_path / "run")["steps"] == 4
    first = next(line for line in lines(tmp_path / "run") if "train/loss" in line)
    parts = first["train/teacher_loss"] + first["train/hint_loss"]
    assert first["train/loss"] == pytest.approx(parts, rel=1e-5)
    assert_teacher_is_kept(folder, tmp_path / "run")


def test_a_run_with_a_distillation_token(folder, tmp_path):
    c = taught(folder, kind="hard")
    c.model.distilled = True
    assert run(c, tmp_path / "run")["steps"] == 4
    _, _, weights = run_weights(tmp_path / "run")
    for head in ("token", "distillation"):  # both start at zero
        assert np.abs(weights[f"head.{head}.kernel"]).max() > 0


def test_a_run_without_labels(folder, tmp_path):
    c = taught(folder, "embedding_distillation", hidden=8)
    c.checkpoint.metric = "val/knn"
    c.augment.mixup = 0.2
    assert run(c, tmp_path / "run")["steps"] == 4
    assert 0 <= lines(tmp_path / "run")[-1]["val/knn"] <= 1
    assert_teacher_is_kept(folder, tmp_path / "run")


def test_what_the_trainer_refuses(folder, tmp_path):
    """Another preparation of the images, and embeddings in their place."""
    c = taught(folder)
    c.data.image_size = 16
    with pytest.raises(UserError, match="'teacher' was trained with data.image_size = 8, but this"):
        run(c, tmp_path / "run")
    c = taught(folder)
    c.model.name = "tests.support.tiny_resnet"
    c.model.pretrained = str(folder / "teacher")
    c.augment.affine = False
    c.transfer.mode = "head"
    c.transfer.cache_embeddings = True
    with pytest.raises(
        UserError, match="'teacher' of the objective 'distillation' needs the images"
    ):
        run(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()
