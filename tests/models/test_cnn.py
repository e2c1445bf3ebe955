"""The plain CNN: against a torch net of the same layers, sizes, options and errors."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.architectures import check_reference, load_reference
from vision.errors import UserError
from vision.models import cnn
from vision.models.layers.streams import Streams

# with 10 classes
PARAMETERS = {"small": 94_762, "medium": 1_148_874, "large": 7_681_674, "mu": 1_774}
SAME_NAMES = types.SimpleNamespace(NAMES={"torch": ()}, __name__="cnn")  # as the reference has


def build(variant="mu", classes=5, **keys):
    return cnn.build(variant, classes, rngs=Streams(0), **keys)


def create(**keys):
    return cnn.CNN((4, 8, 8), 2, 5, rngs=Streams(0), **keys)


def test_reference():
    check_reference("cnn", create, SAME_NAMES)


@pytest.mark.parametrize("variant", cnn.VARIANTS)
def test_parameter_count(variant):
    """3x3 kernels, two numbers a channel of a norm, and the head."""
    model = nnx.eval_shape(lambda: build(variant, 10))
    widths, depth = cnn.VARIANTS[variant]
    kernels = [(i, o) for i, o in zip((3, *widths), widths, strict=False)] + [
        (w, w) for w in widths
    ] * (depth - 1)
    expected = sum(9 * i * o + 2 * o for i, o in kernels) + 10 * widths[-1] + 10
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        == expected
        == PARAMETERS[variant]
    )


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("size", "channels", "last"), [(8, 1, 1), (31, 3, 3)])
def test_shapes_in_bfloat16(train, size, channels, last):
    model = nnx.eval_shape(
        lambda: build(
            dtype=jnp.bfloat16, image_size=size, channels=channels, dropout=0.1, batch_norm_groups=2
        )
    )
    model.train() if train else model.eval()
    graph, state = nnx.split(model)

    def run(state, images):
        model = nnx.merge(graph, state)
        return model.features(images), model.embed(images), model(images)

    images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    maps, embedding, logits = jax.eval_shape(run, state, images)
    assert maps.keys() == {"stages.0", "stages.1", "stages.2"}
    assert maps["stages.2"].shape == (2, last, last, 16)
    assert {x.dtype for x in maps.values()} == {jnp.dtype("bfloat16")}
    assert (embedding.shape, embedding.dtype, logits.shape, logits.dtype) == (
        (2, 16),
        "float32",
        (2, 5),
        "float32",
    )


def test_training_step():
    """Every parameter has a gradient, and the statistics move."""
    model, reference = load_reference("cnn", lambda: create(dropout=0.1, remat="dots"), SAME_NAMES)
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, rest, images):
        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            return jnp.square(model(images) - 1).mean(), nnx.state(model, nnx.BatchStat)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, after), gradient = step(params, rest, reference["images"])
    assert np.isfinite(loss)
    for path, leaf in nnx.to_flat_state(gradient):
        assert np.isfinite(leaf[...]).all() and np.abs(leaf[...]).max() > 0, path
    before = nnx.state(model, nnx.BatchStat)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.abs(a - b).max() > 0


@pytest.mark.parametrize(
    ("variant", "keys", "message"),
    [
        ("tiny", {}, "model.variant.*small, medium, large"),
        (
            "small",
            {"image_size": 7},
            "'cnn' takes images of 8 px or more, not 7: set data.image_size",
        ),
        ("small", {"dropout": 1.0}, "model.dropout must be .*, got 1.0"),
        ("small", {"batch_norm_groups": 0}, "batch_norm_groups must be .*, got 0"),
        ("small", {"remat": "all"}, "model.remat"),
    ],
)
def test_errors(variant, keys, message):
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: build(variant, **keys))
