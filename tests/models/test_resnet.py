"""Residual networks beyond the plain ones: wide and grouped bottlenecks, gates, and the maps that
they give."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.architectures import check_reference
from vision import models
from vision.config import default
from vision.errors import UserError
from vision.models import resnet, surgery
from vision.models.layers.gates import CBAM
from vision.models.layers.norms import BatchNorm
from vision.models.layers.streams import Streams
from vision.models.weights.names import file_name

PARAMETERS = {  # with 1000 classes, as timm counts them; ("mu" is ours)
    ("wide50_2", None): 68_883_240,
    ("wide101_2", None): 126_886_696,
    ("next50_32x4d", None): 25_028_904,
    ("next101_32x8d", None): 88_791_336,
    ("next101_64x4d", None): 83_455_272,
    ("18", "se"): 11_779_624,
    ("50", "se"): 28_088_024,
    ("next50_32x4d", "se"): 27_559_896,
    ("18", "cbam"): 11_777_352,
    ("50", "cbam"): 28_073_576,
    ("mu", None): 23_056,
}
SMALL_PARAMETERS = {  # with 10 classes, as PyTorch counts the nets of make_references.py
    "18_cifar": 11_173_962,
    "34_cifar": 21_282_122,
    "50_cifar": 23_520_842,
}


@functools.cache
def abstract(variant, classes=1000, dtype="float32", **keys):
    c = default().model
    c.update(name="resnet", variant=variant, dtype=dtype, **keys)
    return nnx.eval_shape(lambda: models.build(c, classes, 32, 3, Streams(0)))


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def images(side=16, batch=4):
    return jax.random.normal(jax.random.key(0), (batch, side, side, 3))


@pytest.mark.parametrize(
    ("name", "depths", "width", "keys"),
    [
        ("resnet_se", (1, 2), 8, {"bottleneck": False, "gate": "se"}),
        (
            "resnet_next",
            (1, 1),
            8,
            {"bottleneck": True, "widening": 2, "cardinality": 4, "gate": "se"},
        ),
        ("resnet_cbam", (1, 1), 8, {"bottleneck": True, "gate": "cbam"}),
        (
            "resnet_cifar_cbam",
            (1, 1),
            16,
            {"bottleneck": False, "cifar": True, "option_a": True, "gate": "cbam"},
        ),
    ],
)
def test_reference(name, depths, width, keys):
    keys = {"cifar": False} | keys
    check_reference(name, lambda: resnet.ResNet(depths, width, 5, rngs=Streams(0), **keys), resnet)


# Sizes


@pytest.mark.parametrize(("variant", "gate"), PARAMETERS)
def test_parameter_count(variant, gate):
    assert count(abstract(variant, gate=gate)) == PARAMETERS[variant, gate]


@pytest.mark.parametrize("variant", SMALL_PARAMETERS)
def test_small_images(variant):
    """ImageNet's nets with another stem: 3x3 x 3 x 64 in place of 7x7 x 3 x 64."""
    small = abstract(variant, 10)
    assert count(small) == SMALL_PARAMETERS[variant]
    large = abstract(variant.removesuffix("_cifar"), 10)
    assert count(large) - count(small) == (49 - 9) * 3 * 64
    assert surgery.variables(small).keys() == surgery.variables(large).keys()


@pytest.mark.parametrize("variant", ["mu", "18", "50"])
def test_what_gates_add(variant):
    """Squeeze-and-excitation: two layers with biases a block; CBAM: two without, the 7x7 kernel,
    and its norm."""
    plain, se, cbam = (abstract(variant, gate=gate) for gate in (None, "se", "cbam"))
    channels = [block.features for stage in plain.stages for block in stage]
    squeezed = [max(8, round(c / 128) * 8) for c in channels]  # a sixteenth, in eights
    pairs = list(zip(channels, squeezed, strict=True))
    assert count(se) - count(plain) == sum(2 * c * s + c + s for c, s in pairs)
    assert count(cbam) - count(plain) == sum(
        2 * c * max(1, c // 16) + 2 * 7 * 7 + 2 for c in channels
    )


def test_weights_fit_their_variants():
    for name, weights in resnet.WEIGHTS.items():
        assert weights.variant in resnet.VARIANTS and weights.classes == 1000, name
        assert weights.options.get("gate") == ("se" if "/se" in name else None), name
        assert re.search(r"ne(?:xt|t)(\d+)", name)[1] == re.search(r"\d+", weights.variant)[0], name
    assert set(resnet.PAPER_TOP1) <= set(resnet.VARIANTS)


def test_names():
    rules = resnet.NAMES["timm"]
    assert file_name("stages.3.11.layers.1.norm.var", rules) == "layer4.11.bn2.running_var"
    assert file_name("stages.0.0.projection.conv.kernel", rules) == "layer1.0.downsample.0.weight"
    assert file_name("stages.1.2.gate.expand.bias", rules) == "layer2.2.se.fc2.bias"
    assert (
        file_name("stages.1.2.gate.spatial.conv.norm.mean", rules)
        == "layer2.2.se.spatial.conv.bn.running_mean"
    )


# Maps


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("variant", "keys", "maps"),
    [
        ("18", {"gate": "se"}, [(16, 64), (16, 64), (8, 128), (4, 256), (2, 512)]),
        (
            "mu",
            {"gate": "cbam", "batch_norm_groups": 2, "dropout": 0.1, "remat": "dots"},
            [(16, 8), (16, 8), (8, 16)],
        ),
        (
            "cifar20",
            {"gate": "cbam", "stochastic_depth": 0.1},
            [(64, 16), (64, 16), (32, 32), (16, 64)],
        ),
        ("18_cifar", {}, [(64, 64), (64, 64), (32, 128), (16, 256), (8, 512)]),
    ],
)
def test_maps_and_dtypes(variant, keys, maps, dtype):
    graph, state = nnx.split(abstract(variant, 7, dtype, **keys))
    names = []

    def everything(state, x, training):
        model = nnx.merge(graph, state, copy=True)
        model.train() if training else model.eval()
        features = model.features(x)
        names[:] = features
        return list(features.values()), model.pool(features[names[-1]]), model(x)

    x = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
    for training in (True, False):
        features, embedding, logits = jax.eval_shape(
            functools.partial(everything, training=training), state, x
        )
        assert names == ["stem", *(f"stages.{i}" for i in range(len(maps) - 1))]
        assert [m.shape for m in features] == [(4, side, side, c) for side, c in maps]
        assert {m.dtype for m in features} == {jnp.dtype(dtype)}
        assert (embedding.shape, embedding.dtype) == ((4, maps[-1][1]), jnp.float32)
        assert (logits.shape, logits.dtype) == ((4, 7), jnp.float32)


def test_dropout_ends_the_pool():
    model = resnet.ResNet((1,), 4, 5, bottleneck=False, cifar=True, dropout=0.5, rngs=Streams(0))
    model.train()
    embedding = np.asarray(model.pool(jnp.ones((8, 2, 2, 4))))
    assert set(np.unique(embedding)) == {0, 2}


# Gates


@pytest.mark.parametrize("cifar", [False, True])
def test_gates_change_nothing_at_the_beginning(monkeypatch, cifar):
    """With zero_init_residual, branches begin as zeros, gated or not."""

    x = images(8)

    def draw(_, shape, dtype):  # the same kernels with gates and without
        return jnp.asarray(np.random.default_rng(np.prod(shape)).standard_normal(shape), dtype)

    for name in ("variance_scaling", "normal"):
        monkeypatch.setattr(nnx.initializers, name, lambda *_: draw)

    def logits(gate):
        keys = {"bottleneck": False, "cifar": cifar, "option_a": cifar, "gate": gate}
        keys["zero_init_residual"] = True
        model = resnet.ResNet((1, 1), 4, 5, rngs=Streams(0), **keys)
        model.eval()
        return jax.jit(lambda x: model(x))(x)

    plain, se, cbam = map(logits, (None, "se", "cbam"))
    assert np.abs(plain).max() > 0.01
    np.testing.assert_array_equal(se, plain)
    np.testing.assert_array_equal(cbam, plain)


def test_gates_weigh_the_branch_and_not_the_shortcut():
    """Gates shut altogether leave the shortcut."""
    model = resnet.ResNet(
        (1,),
        16,
        5,
        bottleneck=False,
        cifar=True,
        zero_init_residual=False,
        gate="se",
        rngs=Streams(0),
    )
    model.eval()
    block = model.stages[0][0]
    x = jnp.abs(jax.random.normal(jax.random.key(0), (2, 5, 5, 16)))
    assert np.abs(block(x) - x).max() > 0.1
    block.gate.expand.bias[...] = jnp.full(16, -1e4)
    np.testing.assert_array_equal(block(x), x)


def test_cbam_is_its_equations():
    """Equations 2 and 3 of arXiv:1807.06521 in NumPy, with the norm in training mode."""
    norm = functools.partial(BatchNorm, rngs=Streams(0))
    gate = CBAM(6, 2, kernel=3, norm=norm, dtype=jnp.float32, rngs=Streams(0))
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 6)).astype(np.float32)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def mlp(z):
        return (
            np.maximum(z @ gate.channel.reduce.kernel[0, 0], 0) @ gate.channel.expand.kernel[0, 0]
        )

    y = x * sigmoid(mlp(x.mean((1, 2))) + mlp(x.max((1, 2))))[:, None, None]
    both = np.pad(np.stack([y.mean(-1), y.max(-1)], -1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = np.asarray(gate.spatial.conv.conv.kernel[...])[..., 0]
    z = sum(both[:, i : i + 4, j : j + 4] @ kernel[i, j] for i in range(3) for j in range(3))
    z = (z - z.mean()) / np.sqrt(z.var() + 1e-5)
    np.testing.assert_allclose(gate(x), y * sigmoid(z)[..., None], rtol=1e-4, atol=1e-5)
    assert np.abs(gate.spatial.conv.norm.var[...] - 1).max() > 1e-3


def test_a_gradient_step():
    model = nnx.eval_shape(
        lambda: resnet.build("mu", 5, rngs=Streams(0), gate="cbam", remat="blocks")
    )
    random = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState))):
        value = np.full(variable.shape, path[-1] in ("scale", "var"))
        if variable.ndim > 1:
            value = random.normal(0, np.prod(variable.shape[:-1]) ** -0.5, variable.shape)
        variable.set_value(jnp.asarray(value, variable.dtype))
    model.train()
    graph, params, statistics = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, statistics, x):
        def loss(params):
            model = nnx.merge(graph, params, statistics, copy=True)
            return -jax.nn.log_softmax(model(x))[:, 0].mean(), nnx.state(model, nnx.BatchStat)

        return jax.grad(loss, has_aux=True)(params)

    gradient, after = step(params, statistics, images(32))
    for path, g in nnx.to_flat_state(gradient):
        assert np.isfinite(g[...]).all() and np.abs(g[...]).max() > 0, path
    for (path, old), (_, new) in zip(
        nnx.to_flat_state(statistics), nnx.to_flat_state(after), strict=True
    ):
        assert (np.asarray(old[...]) != np.asarray(new[...])).any(), path


@pytest.mark.parametrize(
    ("variant", "keys", "message"),
    [
        ("50_32x4d", {}, "model.variant.*did you mean 'next50_32x4d'"),
        ("18", {"gate": "sse"}, "model.gate = 'sse' is unknown.*did you mean 'se'"),
        ("cifar20", {"gate": "eca"}, "model.gate.*se, cbam"),
        ("18", {"dropout": 1.5}, "model.dropout must be .*, got 1.5"),
    ],
)
def test_user_errors(variant, keys, message):
    with pytest.raises(UserError, match=message):
        abstract(variant, **keys)
