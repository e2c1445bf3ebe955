"""AlexNet: against torchvision, sizes, initialization, options and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.architectures import check_reference, load_reference
from vision.errors import UserError
from vision.models import alexnet
from vision.models.layers.streams import Streams


def build(variant="mu", classes=5, **keys):
    return alexnet.build(variant, classes, rngs=Streams(0), **keys)


def create(**keys):
    return alexnet.AlexNet((4, 8, 8, 6, 8), 16, 5, channels=1, rngs=Streams(0), **keys)


def test_reference():
    """Gray images of 127 px, whose last map of 3x3 is spread over 6x6 cells."""
    check_reference("alexnet", create, alexnet)


def test_parameter_count():
    """As counted by torchvision."""
    model = nnx.eval_shape(lambda: build("owt", 1000))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == 61_100_840
    assert {w.variant for w in alexnet.WEIGHTS.values()} == alexnet.VARIANTS.keys() - {"mu"}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("size", "last"), [(63, 1), (224, 6), (256, 7)])
def test_shapes_in_bfloat16(train, size, last):
    model = nnx.eval_shape(lambda: build(dtype=jnp.bfloat16, image_size=size, channels=1))
    model.train() if train else model.eval()
    graph, state = nnx.split(model)

    def run(state, images):
        model = nnx.merge(graph, state)
        return model.features(images), model.embed(images), model(images)

    images = jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32)
    maps, embedding, logits = jax.eval_shape(run, state, images)
    assert maps.keys() == {"stem", *(f"stages.{i}" for i in range(4))}
    assert maps["stages.3"].shape == (2, last, last, 8)
    assert {x.dtype for x in maps.values()} == {jnp.dtype("bfloat16")}
    assert (embedding.shape, embedding.dtype, logits.shape, logits.dtype) == (
        (2, 16),
        "float32",
        (2, 5),
        "float32",
    )


def test_training_step():
    """Every parameter has a gradient."""
    model, reference = load_reference("alexnet", lambda: create(dropout=0.0), alexnet)
    graph, params = nnx.split(model)

    @jax.jit
    def step(params, images):
        return jax.value_and_grad(
            lambda params: jnp.square(nnx.merge(graph, params)(images) - 1).mean()
        )(params)

    loss, gradient = step(params, reference["images"])
    assert np.isfinite(loss)
    for path, leaf in nnx.to_flat_state(gradient):
        assert np.isfinite(leaf[...]).all() and np.abs(leaf[...]).max() > 0, path


def test_initialization():
    def some():
        model = build(dropout=0.0)
        biases = [
            layer.bias[...] for layer in (model.stem, *model.stages, *model.hidden, model.head)
        ]
        return model.hidden[0].kernel[...], biases

    kernel, biases = jax.jit(some)()
    np.testing.assert_allclose(kernel.std(), 0.01, rtol=0.05)
    for bias, expected in zip(biases, (0, 1, 0, 1, 1, 1, 1, 0), strict=True):
        np.testing.assert_array_equal(bias, expected)


def test_dropout_comes_before_the_dense_layers():
    """Of a map of ones: what enters the first is 0 or 2."""
    model = nnx.eval_shape(build)
    assert model.dropout.rate == 0.5
    model, _ = load_reference("alexnet", lambda: create(dropout=0.5), alexnet)
    model.train()
    seen = []
    for i, dense in enumerate(model.hidden):
        model.hidden[i] = lambda x, dense=dense: seen.append(np.unique(x)) or dense(x)
    model.pool(jnp.ones((2, 3, 3, 8)))
    np.testing.assert_array_equal(seen[0], [0, 2])
    assert seen[1][0] == 0


@pytest.mark.parametrize(
    ("variant", "keys", "message"),
    [
        ("2012", {}, "model.variant.*owt"),
        (
            "owt",
            {"image_size": 62},
            "'alexnet' takes images of 63 px or more, not 62: set data.image_size",
        ),
        ("owt", {"dropout": -0.5}, "model.dropout must be .*, got -0.5"),
    ],
)
def test_errors(variant, keys, message):
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: build(variant, **keys))
