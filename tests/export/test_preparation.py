"""A graph that resizes or turns gray itself has the pixels that a bundle's reader would make."""

import dataclasses
import json
import os
import shutil

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from experiments.edge.mediapipe_classify import region
from tests.support.npm_packages import packages
from tests.support.programs import images, program_of
from vision import cli, inference
from vision.bundle.directory import open_bundle
from vision.data import decode
from vision.data.decode import resize_crop, to_channels
from vision.errors import UserError
from vision.evaluation.data import open_split
from vision.evaluation.evaluator import gather
from vision.evaluation.outputs import Forward
from vision.export import __main__ as command
from vision.export import coreml, npm
from vision.export.coreml.package import Package
from vision.export.preparation import prepared_inside
from vision.parallel import make_mesh

pytestmark = pytest.mark.long


def inside(size, channels, resize, **options):
    """Returns the pixels that a model gets of the images that `prepared_inside` takes."""
    model = program_of(lambda pixels: (pixels, pixels), size, channels)
    return prepared_inside(dataclasses.replace(model, resize=resize), **options)


@pytest.mark.parametrize(
    ("interpolation", "side", "crop"),
    [
        ("area", 16, 1.0),
        ("area", 32, 0.875),
        ("area", 41, 0.875),
        ("bilinear", 41, 0.875),
        ("bicubic", 18, 0.875),
        ("bicubic", 41, 0.875),
    ],
)
def test_resizing_inside_is_resizing_outside(interpolation, side, crop):
    resize = {"crop_fraction": crop, "interpolation": interpolation}
    program = inside(16, 3, resize, side=side)
    assert (program.image_size, program.channels) == (side, 3)
    assert program.resize == resize | {"crop_fraction": 1.0}
    given = images(3, side)
    given[2] = given[2] // 128 * 255  # a bicubic filter overshoots at edges
    ours = np.asarray(program.function(jnp.asarray(given))[0])
    expected = np.stack([resize_crop(image, 16, **resize) for image in given])
    difference = np.abs(ours - expected.astype(np.float32))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.05


def test_gray_inside_is_gray_outside():
    program = inside(64, 1, {"crop_fraction": 1.0, "interpolation": "area"}, rgb=True)
    assert (program.image_size, program.channels) == (64, 3)
    given = images(8, 64)
    given[0] = given[0, ..., :1]  # a gray image stays as it is
    ours = np.asarray(program.function(jnp.asarray(given))[0])
    np.testing.assert_array_equal(ours, np.stack([to_channels(image, 1) for image in given]))
    np.testing.assert_array_equal(ours[0], given[0, ..., :1])


def export(run, out, *flags):
    return cli.run(command.main, ["--workdir", str(run), "--out", str(out), *flags])


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A run that resizes images to 9 px and crops 8 of them."""
    workdir = shutil.copytree(tiny_run, tmp_path_factory.mktemp("cropping") / "run")
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["crop_fraction"] = 0.875
    (workdir / "config.json").write_text(json.dumps(config))
    return workdir


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    """The bundle of this gray model of 8 px, which takes RGB images of 18 px."""
    out = tmp_path_factory.mktemp("bundles") / "phone"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(npm, "fetch", lambda pinned, folder: packages("litert"))
        export(run, out, "--format=onnx,tflite,coreml,web", "--rgb", "--resize-inside=18")
    return out


def test_a_bundle_of_it_answers_as_the_run_does(run, bundle):
    run = inference.from_run(run)
    opened = open_bundle(bundle)
    assert (opened.image_size, opened.channels) == (18, 3)
    given = images(6, 18)
    expected, _ = run.probabilities_and_embeddings(np.stack([run.prepare(i) for i in given]))
    prepared = np.stack([opened.prepare(image) for image in given])
    np.testing.assert_array_equal(prepared, given)
    actual, _ = opened.probabilities_and_embeddings(prepared)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert expected.std(0).max() > 1e-3
    exported = json.loads((bundle / "bundle.json").read_text())["quality"]["exported"]
    assert exported.keys() == {"model.onnx", "model.tflite", coreml.NAME}
    assert exported["model.tflite"]["of"] == "of the validation split"
    assert exported[coreml.NAME]["largest_difference"] < 1e-5
    package = Package(bundle / coreml.NAME)
    np.testing.assert_allclose(
        [list(package(image)["classLabel_probs"].values()) for image in given],
        expected,
        atol=1e-5,
    )
    about = json.loads((bundle / "web" / "model.json").read_text())
    assert (about["image_size"], about["channels"]) == (18, 3)
    assert about["resize"] == opened.resize and opened.resize["crop_fraction"] == 1


def test_a_bundle_of_it_is_evaluated_as_the_run_is(run, bundle, tmp_path):
    """Its config says 0.875, as the run's does; the evaluation must not crop before the graph."""
    for index, blocks in enumerate(images(10, 9)):
        image = blocks.repeat(4, 0).repeat(4, 1)  # 36 px, which no resize rounds
        place = tmp_path / str(index % 2) / f"{index}.png"
        place.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(place), image)
    evaluated = []
    for model in (inference.from_run(run), open_bundle(bundle)):
        model.config.data.workers = 0
        mesh = make_mesh(1)
        split = open_split(model, model.config, mesh, f"folder:{tmp_path}", "all")
        outputs = gather(Forward(model, mesh), split, 10, 0)
        evaluated.append(softmax(outputs.logits, axis=1))
        assert len(outputs.logits) == 10
    np.testing.assert_allclose(*evaluated, atol=1e-5)
    assert evaluated[0].std(0).max() > 1e-3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resize-inside=7"], "--resize-inside must be from 8 to 32 pixels, 1 to 4 times the 8"),
        (["--resize-inside=33"], "--resize-inside must be from 8 to 32 pixels"),
        (["--resize-inside=-1"], "--resize-inside must be at least 0, got -1"),
        (["--format=safetensors,tflite", "--rgb"], "--rgb changes a graph, and safetensors has"),
        (["--format=safetensors", "--resize-inside=16"], "--resize-inside changes a graph, and"),
        (["--heatmap", "--resize-inside=16"], "--heatmap shows the model's own crop: leave out"),
    ],
)
def test_mistakes(tiny_run, bundle, flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        export(tiny_run, tmp_path / "out", *flags)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") <= 2
    assert os.listdir(tmp_path) == []


def test_a_color_model_needs_no_rgb():
    with pytest.raises(UserError, match="^--rgb is for gray models: this one takes three"):
        prepared_inside(program_of(lambda x: (x, x), 8, 3), rgb=True)


@pytest.mark.parametrize(("size", "fraction"), [(224, 0.875), (28, 1.0), (300, 0.904)])
def test_the_region_for_mediapipe_is_the_crop_of_the_bundle(size, fraction, monkeypatch):
    """To the pixel: instead of pixels, the resized image has its rows and columns as shares."""

    def shares(_, height, width, interpolation):
        rows, columns = np.mgrid[:height, :width]
        return np.stack(
            [rows / height, columns / width, (rows + 1) / height, (columns + 1) / width], -1
        )

    monkeypatch.setattr(decode, "_resize", shares)
    for height, width in np.random.default_rng(size).integers(200, 1000, (30, 2)):
        part = region(int(width), int(height), size, fraction)
        kept = resize_crop(np.empty((height, width, 1), np.uint8), size, fraction)
        assert kept.shape == (size, size, 4)
        assert (part["top"], part["left"]) == tuple(kept[0, 0, :2])
        assert (part["bottom"], part["right"]) == tuple(kept[-1, -1, 2:])
        assert min(part.values()) >= 0 and max(part.values()) <= 1
