"""A teacher is opened from a run, a bundle or published weights; each gives the same network."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.support.tiny_bundle import write_bundle
from vision.errors import UserError
from vision.export import safetensors
from vision.inference import from_run
from vision.models.weights import pretrained
from vision.run.teacher import digest, is_teacher, open_teacher
from vision.run.weights import run_weights


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    """A directory with the tiny run's model.safetensors, in timm's names, and its config.json."""
    directory = tmp_path_factory.mktemp("exported")
    safetensors.write(from_run(tiny_run), directory)
    return directory


@pytest.fixture(scope="module")
def bundle(tiny_run, exported, tmp_path_factory):
    """The tiny run as a bundle, with a graph that nothing here runs."""
    directory = tmp_path_factory.mktemp("bundle") / "digits"
    shutil.copytree(exported, directory)
    config, data, _ = run_weights(tiny_run)
    classes = list(data["classes"])
    return write_bundle(directory, classes, config=json.loads(config.to_json()))


def specs(tiny_run, bundle, exported):
    weights = exported / "model.safetensors"
    return {"run": tiny_run, "bundle": bundle, "published": f"vit:mu/4@{weights}"}


@pytest.mark.parametrize("kind", ["run", "bundle", "published"])
def test_each_kind_gives_the_same_network(kind, tiny_run, bundle, exported):
    spec = str(specs(tiny_run, bundle, exported)[kind])
    assert is_teacher(spec)
    teacher = open_teacher(spec, 8, 1)
    _, data, weights = run_weights(tiny_run)
    assert teacher.classes == tuple(data["classes"])
    assert (teacher.data["image_size"], teacher.data["channels"]) == (8, 1)
    assert teacher.config.data.normalize in ("auto", "symmetric", "mean_std")
    assert pretrained.shapes(teacher.build()) == {k: v.shape for k, v in weights.items()}
    arrays = teacher.weights()
    assert arrays.keys() == weights.keys()
    assert digest(arrays) == digest(weights)


def test_the_home_directory(tiny_run, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_run.parent))
    teacher = open_teacher(f"~/{tiny_run.name}", 8, 1)
    assert digest(teacher.weights()) == digest(run_weights(tiny_run)[2])


def test_weights_that_nothing_describes_see_the_images_of_the_run(tiny_run, exported, tmp_path):
    file = tmp_path / "plain.safetensors"
    shutil.copy(exported / "model.safetensors", file)
    images = run_weights(tiny_run)[0].data
    images.normalize = "mean_std"
    images.mean = (0.3,)
    images.std = (0.2,)
    teacher = open_teacher(f"vit:mu/4@{file}", 8, 1, images)
    assert teacher.config.data.normalize == "mean_std"
    assert (teacher.config.data.mean, teacher.config.data.std) == ((0.3,), (0.2,))
    assert teacher.classes == tuple(map(str, range(10)))  # nobody has named them


def test_an_encoder_without_a_head(exported, tmp_path):
    """Its other weights are read; an objective that needs no head can learn from them."""
    arrays = load_file(exported / "model.safetensors")
    encoder = {name: array for name, array in arrays.items() if not name.startswith("head")}
    save_file(encoder, tmp_path / "encoder.safetensors")
    teacher = open_teacher(f"vit:mu/4@{tmp_path / 'encoder.safetensors'}", 8, 1)
    names = pretrained.shapes(teacher.build()).keys()
    assert names - teacher.weights().keys() == {"head.kernel", "head.bias"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("/nowhere/run", "is not a run directory"),
        ("rsnet:50@hf:timm/resnet50.a1_in1k", "did you mean 'resnet'"),
        ("vit:mu/4@/nowhere/model.safetensors", "/nowhere/model.safetensors"),
    ],
)
def test_what_is_no_teacher(spec, message):
    assert is_teacher(spec)
    with pytest.raises(UserError, match=message):
        open_teacher(spec, 8, 1)


def test_a_bundle_without_weights(tiny_run, tmp_path):
    config, data, _ = run_weights(tiny_run)
    written = {"classes": list(data["classes"]), "config": json.loads(config.to_json())}
    directory = write_bundle(tmp_path / "bundle", **written)
    with pytest.raises(UserError, match="has no model.safetensors to learn from: export its run"):
        open_teacher(str(directory), 8, 1)


def test_a_bundle_whose_weights_have_changed(bundle, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    arrays = load_file(copy / "model.safetensors")
    save_file({k: array + 1 for k, array in arrays.items()}, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors has changed since it was exported"):
        open_teacher(str(copy), 8, 1)


@pytest.mark.parametrize("spec", ["weights.safetensors", "hf:timm/resnet50.a1_in1k", "package:a/b"])
def test_files_of_weights_are_no_teachers(spec):
    """They say nothing of the architecture."""
    assert not is_teacher(spec)


def test_the_digest_is_of_names_shapes_and_numbers():
    array = np.arange(6, dtype=np.float32)
    others = ({"b": array}, {"a": array.reshape(2, 3)}, {"a": array.astype("float64")})
    different = {digest({"a": array}), *map(digest, others), digest({"a": array + 1})}
    assert len(different) == 5 and digest({"a": array.copy()}) in different
