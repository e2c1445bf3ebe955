"""ConvNeXt: against timm and torchvision, sizes, options and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.architectures import check_reference, filled
from vision.errors import UserError
from vision.models import convnext
from vision.models.layers.streams import Streams

# as counted by timm, torchvision
PARAMETERS = {"T": 28_589_128, "S": 50_223_688, "B": 88_591_464, "L": 197_767_336}


def build(variant="mu", classes=5, **keys):
    return convnext.build(variant, classes, rngs=Streams(0), **keys)


@pytest.mark.parametrize(
    ("name", "depths"),
    [("convnext", (2, 1, 1, 1)), ("convnext_torchvision", (2, 1))],
    ids=["timm", "torchvision"],
)
def test_reference(name, depths):
    """timm's of 37 px, whose maps 2 does not divide; torchvision's with its own names."""
    check_reference(name, lambda: convnext.ConvNeXt(4, depths, 5, rngs=Streams(0)), convnext)


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameter_count(variant):
    model = nnx.eval_shape(lambda: build(variant, 1000))
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        == PARAMETERS[variant]
    )


def test_weights_name_what_there_is():
    variants = convnext.VARIANTS.keys() - {"mu"}
    assert {w.variant for w in convnext.WEIGHTS.values()} == convnext.PAPER_TOP1.keys() == variants


@pytest.mark.parametrize("train", [True, False])
def test_shapes_in_bfloat16(train):
    model = nnx.eval_shape(
        lambda: build(dtype=jnp.bfloat16, dropout=0.1, stochastic_depth=0.1, remat="dots")
    )
    model.train() if train else model.eval()
    graph, state = nnx.split(model)

    def run(state, images):
        model = nnx.merge(graph, state)
        return model.features(images), model.embed(images), model(images)

    images = jax.ShapeDtypeStruct((2, 70, 33, 3), jnp.float32)
    maps, embedding, logits = jax.eval_shape(run, state, images)
    shapes = {name: (x.shape, x.dtype.name) for name, x in maps.items()}
    sizes = {
        "stem": (17, 8, 4),
        "stages.0": (17, 8, 4),
        "stages.1": (8, 4, 8),
        "stages.2": (4, 2, 16),
    }
    expected = sizes | {"stages.3": (2, 1, 32)}
    assert shapes == {name: ((2, *shape), "bfloat16") for name, shape in expected.items()}
    assert (embedding.shape, embedding.dtype, logits.shape, logits.dtype) == (
        (2, 32),
        "float32",
        (2, 5),
        "float32",
    )


def test_training_step():
    """Every parameter has a gradient."""
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    graph, params, rest = nnx.split(
        filled(lambda: convnext.ConvNeXt(4, (1, 1), 5, rngs=Streams(0))), nnx.Param, ...
    )
    step = jax.value_and_grad(
        lambda params: jnp.square(nnx.merge(graph, params, rest)(images)).mean()
    )
    loss, gradient = jax.jit(step)(params)
    assert np.isfinite(loss)
    for path, leaf in nnx.to_flat_state(gradient):
        assert np.isfinite(leaf[...]).all() and np.abs(leaf[...]).max() > 0, path


def test_options():
    model = nnx.eval_shape(lambda: build(stochastic_depth=0.4, dropout=0.1))
    np.testing.assert_allclose(
        [stage.blocks[0].drop.rate for stage in model.stages], [0.1, 0.2, 0.3, 0.4]
    )
    assert model.dropout.rate == 0.1
    for keys, expected in (({}, 1e-6), ({"layer_scale": 0.1}, 0.1)):
        scale = jax.jit(lambda keys=keys: build(**keys).stages[0].blocks[0].layer_scale[...])()
        np.testing.assert_allclose(scale, np.full(4, expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("variant", "keys", "message"),
    [
        ("XXL", {}, "model.variant.*T, S, B, L"),
        (
            "T",
            {"image_size": 28},
            "'convnext' takes images of 32 px or more, not 28: set data.image_size",
        ),
        ("T", {"stochastic_depth": -1.0}, "model.stochastic_depth must be .*, got -1.0"),
        ("T", {"remat": "all"}, "model.remat"),
    ],
)
def test_errors(variant, keys, message):
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: build(variant, **keys))
