"""VGG: against timm and torchvision, sizes, names, options and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.architectures import check_reference, load_reference
from vision.errors import UserError
from vision.models import vgg
from vision.models.layers.streams import Streams

PARAMETERS = {  # as counted by torchvision and timm
    "11": 132_863_336,
    "13": 133_047_848,
    "16": 138_357_544,
    "19": 143_667_240,
    "11_bn": 132_868_840,
    "13_bn": 133_053_736,
    "16_bn": 138_365_992,
    "19_bn": 143_678_248,
}


def build(variant="mu", classes=5, **keys):
    return vgg.build(variant, classes, rngs=Streams(0), **keys)


def create(**keys):
    return vgg.VGG((1, 2, 1, 1, 1), (4, 4, 8, 8, 8), 16, 5, channels=1, rngs=Streams(0), **keys)


@pytest.mark.parametrize(
    ("name", "normalized"), [("vgg", False), ("vgg_bn", True)], ids=["timm", "torchvision"]
)
def test_reference(name, normalized):
    """Gray images whose last maps, of 3x3 and 2x2, are spread over 7x7 cells."""
    check_reference(name, lambda: create(normalized=normalized), vgg)


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameter_count(variant):
    model = nnx.eval_shape(lambda: build(variant, 1000))
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        == PARAMETERS[variant]
    )


def test_weights_name_what_there_is():
    assert PARAMETERS.keys() == vgg.VARIANTS.keys() - {"mu"}
    for name, weights in vgg.WEIGHTS.items():
        assert name.startswith((f"hf:timm/vgg{weights.variant}.", f"vgg{weights.variant}-"))
    assert [w.variant for w in vgg.WEIGHTS.values()] == [v for v in PARAMETERS for _ in range(2)]


@pytest.mark.parametrize("variant", ["11", "16_bn"])
def test_stages_of_a_list_of_layers(variant):
    """The torchvision layers' numbers tell where the stages end."""
    depths, normalized = vgg.VARIANTS[variant]
    arrays = {"classifier.0.weight": np.zeros((1, 1))}
    expected = {"classifier.0.weight"}
    number = 0
    for stage, depth in enumerate(depths):
        for layer in range(depth):
            arrays[f"features.{number}.weight"] = np.zeros((1, 1, 3, 3))
            expected.add(f"stages.{stage}.{layer}.conv.weight")
            if normalized:
                arrays[f"features.{number + 1}.running_mean"] = arrays[
                    f"features.{number + 1}.weight"
                ] = np.zeros(1)
                expected |= {
                    f"stages.{stage}.{layer}.norm.{name}" for name in ("running_mean", "weight")
                }
            number += 2 + normalized
        number += 1
    assert vgg.REWRITE["torchvision"](arrays).keys() == expected


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("variant", "size", "last", "keys"),
    [("mu", 32, (1, 8), {"batch_norm_groups": 2}), ("11", 250, (7, 512), {})],
)
def test_shapes_in_bfloat16(train, variant, size, last, keys):
    model = nnx.eval_shape(
        lambda: build(variant, dtype=jnp.bfloat16, image_size=size, remat="blocks", **keys)
    )
    model.train() if train else model.eval()
    graph, state = nnx.split(model)

    def run(state, images):
        model = nnx.merge(graph, state)
        return model.features(images), model.embed(images), model(images)

    maps, embedding, logits = jax.eval_shape(
        run, state, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    )
    assert maps.keys() == {f"stages.{i}" for i in range(5)}
    assert maps["stages.4"].shape == (2, last[0], *last)
    assert {x.dtype for x in maps.values()} == {jnp.dtype("bfloat16")}
    assert (embedding.shape, embedding.dtype) == ((2, 16 if variant == "mu" else 4096), "float32")
    assert (logits.shape, logits.dtype) == ((2, 5), "float32")


def test_training_step():
    """Every parameter but the biases before the norms has a gradient, and the statistics move."""
    model, reference = load_reference("vgg_bn", lambda: create(normalized=True, dropout=0.0), vgg)
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
        assert np.isfinite(leaf[...]).all()
        assert np.abs(leaf[...]).max() > 0 or path[-2:] == ("conv", "bias"), path
    before = nnx.state(model, nnx.BatchStat)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.abs(a - b).max() > 0


def test_dropout_ends_the_pool():
    model = build(dropout=0.5)
    for dense in model.hidden:
        dense.bias[...] = jnp.ones(16)
    model.train()
    embedding = np.asarray(model.pool(jnp.zeros((8, 1, 1, 8))))
    assert 0.2 < (embedding == 0).mean() < 0.8 and (embedding[embedding != 0] > 1).all()


@pytest.mark.parametrize(
    ("variant", "keys", "message"),
    [
        ("12", {}, "model.variant.*11_bn, 13_bn"),
        (
            "16",
            {"image_size": 31},
            "'vgg' takes images of 32 px or more, not 31: set data.image_size",
        ),
        ("16", {"batch_norm_groups": 2}, "vgg 16 has no batch norm .* choose variant 16_bn"),
        ("16_bn", {"batch_norm_groups": 0}, "batch_norm_groups must be .*, got 0"),
        ("16", {"dropout": 1.0}, "model.dropout must be .*, got 1.0"),
        ("16", {"remat": "all"}, "model.remat"),
    ],
)
def test_errors(variant, keys, message):
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: build(variant, **keys))
