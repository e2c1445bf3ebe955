"""Mobile networks by name: sizes against MobileNet's own, resolution, costs, export, pruning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.classifiers import classifier
from vision.compression.groups import find_groups
from vision.errors import UserError
from vision.models import mobile_space, mobilenet, surgery
from vision.models.layers.streams import Streams
from vision.models.surgery.costs import multiply_adds


def abstract(variant, module=mobile_space, classes=10, **keys):
    return nnx.eval_shape(lambda: module.build(variant, classes, rngs=Streams(0), **keys))


def shapes(model, part):
    names = surgery.variables(model).items()
    return {name: variable.shape for name, variable in names if name.startswith(part)}


def test_the_blocks_are_those_of_mobilenet():
    """Its second stage and its fourth, by name."""
    name = "c16-w24d2e3-w40d3k5e5se1-h8"
    model = abstract(name)
    rows = (mobilenet.Row(3, 48, 24, False, "HS", 1), mobilenet.Row(3, 72, 24, False, "HS", 1))
    squeezing = (
        mobilenet.Row(5, 120, 40, True, "HS", 1),
        *(mobilenet.Row(5, 200, 40, True, "HS", 1),) * 2,
    )
    other = nnx.eval_shape(
        lambda: mobilenet.MobileNetV3(
            ((mobilenet.Row(3, 16, 16, False, "HS", 1),), rows, squeezing),
            8,
            8,
            10,
            rngs=Streams(0),
        )
    )
    for stage in (0, 1):
        ours = shapes(model, f"stages.{stage}.")
        theirs = shapes(other, f"stages.{stage + 1}.")
        assert {name.replace(f"stages.{stage}", f"stages.{stage + 1}", 1): shape
                for name, shape in ours.items()} == theirs  # fmt: skip


def test_multiply_adds_by_formula():
    """Products of the stem, of each layer of the blocks, of the last layer and of the head."""
    model = abstract("c8s2-w16d2k5e3s2se1-h32", classes=7)
    stem = 16 * 16 * 8 * 9 * 3
    first = 16 * 16 * 8 * 24 + 8 * 8 * 24 * 25 + 2 * 24 * 8 + 8 * 8 * 24 * 16
    second = 8 * 8 * (16 * 48 + 48 * 25 + 48 * 16) + 2 * 48 * 16
    assert multiply_adds(model, 32) == stem + first + second + 8 * 8 * 16 * 32 + 32 * 7


@pytest.mark.parametrize("side", [12, 40])
def test_images_are_resized_to_the_resolution(side):
    model = abstract(f"r{side}-c8-w8e2-h8")
    images = np.random.default_rng(0).uniform(size=(2, 28, 28, 3)).astype(np.float32)
    expected = jax.image.resize(images, (2, side, side, 3), "linear")
    np.testing.assert_allclose(model.resize(jnp.asarray(images)), expected, atol=1e-5)
    graph, state = nnx.split(model)
    maps = jax.eval_shape(
        lambda state, x: nnx.merge(graph, state).features(x), state, jnp.asarray(images)
    )
    assert maps["stem"].shape == (2, side, side, 8)
    same = jnp.zeros((2, side, side, 3))
    assert model.resize(same) is same


def test_its_channels_can_be_pruned():
    model = classifier("mobile_space").model
    names = {group.name for group in find_groups(model, 32, 3)}
    assert {"stem.conv", "stages.0.0.depthwise.conv", "stages.1.0.project.conv"} <= names
    assert {"stages.1.0.squeeze.reduce", "stages.2.0.conv"} <= names


@pytest.mark.parametrize(
    ("variant", "keys", "message"),
    [
        ("v33", {}, "did you mean 'v3'.*or the name of a network, such as c16-"),
        ("c16-w16e3y1-h8", {}, "model.variant = .* 'y' is unknown"),
        ("mu", {"act": "gelu"}, "model.options.act"),
        ("mu", {"dropout": 1.0}, "model.dropout"),
    ],
)
def test_mistakes(variant, keys, message):
    with pytest.raises(UserError, match=message):
        abstract(variant, **keys)
