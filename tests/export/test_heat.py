"""The heat maps that a served model returns are class activation maps."""

import json

import numpy as np
import pytest
from flax import nnx

from tests.support.classifiers import classifier, images
from vision import cli
from vision.bundle.directory import open_bundle, open_model
from vision.data.augment import normalize
from vision.errors import UserError
from vision.export import __main__ as command
from vision.export import bundle
from vision.export import onnx as form
from vision.export.heat import check_linear, class_activation
from vision.export.options import ExportOptions
from vision.export.program import served
from vision.models.layers.streams import Streams


def logit_maps(model, pixels):
    """Returns (each position's share in the logit of each class, (B, h, w, C); the logits)."""
    d = model.config.data
    *_, last = model.model.features(normalize(pixels, d.normalize, d.mean, d.std)).values()
    kernel = np.asarray(model.model.head.kernel[...])
    bias = np.asarray(model.model.head.bias[...])
    maps = np.asarray(last, np.float64) @ kernel
    return maps, maps.mean((1, 2)) + bias


@pytest.fixture(scope="module")
def resnet():
    return classifier("resnet")


def test_a_heat_map_is_the_share_of_each_position_in_the_logit(resnet, tmp_path):
    pixels = images(resnet, 6)
    maps, logits = logit_maps(resnet, pixels)
    np.testing.assert_allclose(logits, resnet(pixels)[0], atol=1e-3)
    best = logits.argmax(1)
    expected = np.maximum(maps[np.arange(6), :, :, best], 0)
    expected /= np.maximum(expected.max((1, 2), keepdims=True), 1e-30)
    form.write(served(resnet, heatmap=True), tmp_path / "model.onnx")
    model = open_model(tmp_path / "model.onnx")
    for count in (1, 6):
        probabilities, embeddings, heat = model.explain(pixels[:count])
        assert heat.dtype == np.float32 and heat.shape == (count, *maps.shape[1:3])
        np.testing.assert_allclose(heat, expected[:count], atol=1e-4)
        for ours, theirs in zip(
            (probabilities, embeddings), model.run(pixels[:count]), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(
        probabilities, resnet.probabilities_and_embeddings(pixels)[0], atol=1e-5
    )
    assert 0 < np.ptp(expected, axis=0).max() <= 1  # or a constant would pass


def test_nothing_for_a_class_is_no_heat():
    model = nnx.Module()
    model.head = nnx.Linear(2, 3, rngs=Streams(0))
    model.head.kernel[...] = np.array([[1.0, 0, 0], [0, 1, -1]], np.float32)
    last = np.zeros((2, 2, 2, 2), np.float32)
    last[:, 0, 1] = (4, 2)
    last[:, 1, 1] = (1, 0)
    heat = class_activation(model, last, np.array([[1, 0, 0], [0, 0, 1]], np.float32))
    np.testing.assert_allclose(heat, [[[0, 1], [0, 0.25]], [[0, 0], [0, 0]]])


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("cnn", True),
        ("efficientnet", True),
        ("vit", False),
        ("convnext", False),
        ("airbench", False),
        ("vgg", False),
        ("wide_resnet", True),
    ],
)
def test_which_models_have_one(name, fits):
    tested = classifier(name)
    if fits:
        check_linear(tested.model, tested.image_size, tested.channels)
    else:
        with pytest.raises(UserError, match="leave it out"):
            check_linear(tested.model, tested.image_size, tested.channels)


def test_a_bundle_with_and_without(resnet, tmp_path):
    options = ExportOptions(heatmap=True)
    bundle.export(resnet, tmp_path / "hot", options, report=lambda line: None)
    hot = open_bundle(tmp_path / "hot")
    pixels = images(resnet, 3)
    heat = hot.explain(pixels)[2]
    assert heat.ndim == 3 and (heat.max((1, 2)) == 1).all() and (heat >= 0).all()
    quality = json.loads((tmp_path / "hot/bundle.json").read_text())["quality"]
    checked = quality["exported"]["model.onnx"]
    assert 0 < checked["largest_heat_difference"] < bundle.HEAT_TOLERANCE
    with pytest.raises(UserError, match="--heatmap needs --format onnx"):
        ExportOptions(["tflite"], heatmap=True)


def test_a_model_without_one_is_refused(tiny_run, tmp_path, capsys):
    argv = ["--workdir", str(tiny_run), "--heatmap", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        cli.run(command.main, argv)
    assert "ViT is not: leave it out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
