"""What every model promises: sizes, dtypes, modes, options and their errors; and the shared layers'
properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vision import models
from vision.config import default
from vision.errors import UserError
from vision.models import resnet, vit
from vision.models.layers.activations import gelu
from vision.models.layers.blocks import Dropout, StochasticDepth
from vision.models.layers.convolution import ConvNorm
from vision.models.layers.norms import BatchNorm
from vision.models.layers.positions import sincos_2d
from vision.models.layers.streams import Streams
from vision.models.layers.transformer import Attention
from vision.support.modules import find, names

PARAMETERS = {
    # DeiT's and the ViT paper's sizes, as counted by timm
    ("vit", "Ti/16"): 5_717_416,
    ("vit", "S/16"): 22_050_664,
    ("vit", "B/16"): 86_567_656,
    ("vit", "L/16"): 304_326_632,
    # as counted by torchvision
    ("resnet", "18"): 11_689_512,
    ("resnet", "34"): 21_797_672,
    ("resnet", "50"): 25_557_032,
    ("resnet", "101"): 44_549_160,
    ("resnet", "152"): 60_192_808,
    # the paper's table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million
    ("resnet", "cifar20"): 269_722,
    ("resnet", "cifar32"): 464_154,
    ("resnet", "cifar44"): 658_586,
    ("resnet", "cifar56"): 853_018,
    ("resnet", "cifar110"): 1_727_962,
}


def config(name, variant, **keys):
    c = default().model
    c.update(name=name, variant=variant, **keys)
    return c


def abstract(c, classes=10, size=32, channels=3):
    """Returns the model with shapes in place of numbers."""
    return nnx.eval_shape(lambda: models.build(c, classes, size, channels, Streams(0)))


def tiny(name, **keys):
    """Returns the smallest model of a kind for images of 8 px, filled by NumPy: initializers are
    slow to compile."""

    def make():
        if name == "vit":
            return vit.build("mu/4", 10, image_size=8, rngs=Streams(0), **keys)
        return resnet.ResNet(
            (1, 1), 8, 10, bottleneck=False, cifar=True, option_a=True, rngs=Streams(0), **keys
        )

    model = nnx.eval_shape(make)
    random = np.random.default_rng(0)
    for i, (path, variable) in enumerate(nnx.to_flat_state(nnx.state(model))):
        if isinstance(variable, nnx.RngKey):
            value = jax.random.key(i)
        elif variable.ndim > 1:
            value = random.normal(0, np.prod(variable.shape[:-1]) ** -0.5, variable.shape)
        else:
            value = np.full(variable.shape, path[-1] in ("scale", "var"))
        variable.set_value(jnp.asarray(value, variable.dtype))
    return model


def images(size=8, channels=3, batch=4, seed=0):
    return jax.random.normal(jax.random.key(seed), (batch, size, size, channels))


def variables(model):
    return {
        path[-1]: np.array(v[...]) for path, v in nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
    }


@pytest.mark.parametrize(("name", "variant"), PARAMETERS)
def test_parameter_count(name, variant):
    cifar = variant.startswith("cifar")
    model = abstract(config(name, variant), *((10, 32) if cifar else (1000, 224)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == PARAMETERS[name, variant]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "variant", "size", "channels", "keys"),
    [
        ("vit", "mu/4", 28, 1, {}),
        ("vit", "mu/4", 28, 1, {"pool": "mean", "positions": "sincos"}),
        ("vit", "B/16", 224, 3, {}),
        ("resnet", "cifar20", 28, 1, {"batch_norm_groups": 2}),
        ("resnet", "cifar20", 32, 3, {"dropout": 0.1, "stochastic_depth": 0.1}),
        ("resnet", "50", 224, 3, {}),
        ("resnet", "18", 65, 3, {}),
    ],
)
def test_shapes_and_dtypes(name, variant, size, channels, keys, dtype):
    """Embeddings and logits are float32 in both modes, whatever the computation and the images
    are."""
    model = abstract(config(name, variant, dtype=dtype, **keys), 7, size, channels)
    assert model.head.kernel.dtype == jnp.float32
    model.train()
    check_shapes(model, jax.ShapeDtypeStruct((4, size, size, channels), jnp.float32))
    model.eval()
    check_shapes(model, jax.ShapeDtypeStruct((4, size, size, channels), jnp.bfloat16))


def check_shapes(model, x):
    graph, state = nnx.split(model)

    def both(state, x):
        model = nnx.merge(graph, state, copy=True)
        return model.embed(x), model(x)

    embedding, logits = jax.eval_shape(both, state, x)
    assert (embedding.shape, embedding.dtype) == ((4, model.head.in_features), jnp.float32)
    assert (logits.shape, logits.dtype) == ((4, 7), jnp.float32)


@pytest.mark.parametrize(("name", "keys"), [("vit", {}), ("resnet", {"batch_norm_groups": 2})])
def test_training_and_evaluation(name, keys):
    """One gradient step on split state under jit, as the trainer takes it; evaluation repeats
    itself, training not."""
    model = tiny(name, dropout=0.2, stochastic_depth=0.5, **keys)
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, rest, x):
        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            logits = model(x)
            return -jax.nn.log_softmax(logits)[:, 0].mean(), (
                nnx.split(model, nnx.Param, ...)[2],
                logits,
            )

        (_, (new, logits)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return new, logits, gradient

    x = images()
    new, first, gradient = step(params, rest, x)
    _, second, _ = step(params, new, x)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient["head"]))
    assert not np.allclose(first, second)  # the random streams moved on

    model.eval()
    graph, state = nnx.split(model)

    @jax.jit
    def evaluate(state, x):
        model = nnx.merge(graph, state, copy=True)
        return model(x), nnx.state(model)

    logits, after = evaluate(state, x)
    again, _ = evaluate(after, x)
    np.testing.assert_array_equal(logits, again)
    # Each image's logits are its own.
    np.testing.assert_allclose(evaluate(state, x[::-1])[0], logits[::-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "tolerance"), [("vit", 0.05), ("resnet", 0.05)])
def test_bfloat16_is_near_float32(name, tolerance):
    wide, narrow = (tiny(name, dtype=jnp.dtype(d)) for d in ("float32", "bfloat16"))
    wide.eval(), narrow.eval()
    expected, logits = (jax.jit(lambda x, m=m: m(x))(images()) for m in (wide, narrow))
    assert np.isfinite(logits).all()
    assert np.abs(logits - expected).max() < tolerance * np.abs(expected).max()
    assert np.abs(logits - expected).max() > 0  # it did compute in bfloat16


def test_initialization():
    """The scale of each kernel is that of the papers' initializers."""
    qkv = Attention(32, 2, 0.0, dtype=jnp.float32, rngs=Streams(0)).qkv.kernel[...]
    limit = np.sqrt(6 / (32 + 32))  # Xavier's, of each of the three parts
    assert 0.95 * limit < np.abs(qkv).max() <= limit
    norm = functools.partial(BatchNorm, rngs=Streams(0))
    kernel = ConvNorm(32, 64, 3, norm=norm, dtype=jnp.float32, rngs=Streams(0)).conv.kernel[...]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.05)
    head, positions = jax.jit(
        lambda: vit_parts(vit.build("mu/4", 10, image_size=32, rngs=Streams(0)))
    )()
    assert not head.any()
    np.testing.assert_allclose(positions.std(), 0.02, rtol=0.1)


def vit_parts(model):
    return model.head.kernel[...], model.positions[...]


@pytest.mark.parametrize(
    ("variant", "options", "scale"),
    [
        ("cifar20", {}, 1),
        ("cifar20", {"zero_init_residual": True}, 0),
        ("18", {}, 0),
        ("18", {"zero_init_residual": False}, 1),
    ],
)
def test_zero_init_residual(variant, options, scale):
    def scales():
        model = resnet.build(variant, 10, rngs=Streams(0), **options)
        return [layer.norm.scale[...] for layer in model.stages[-1][-1].layers]

    first, last = jax.jit(scales)()
    assert (first == 1).all() and (last == scale).all()


def test_sincos_with_a_class_token_leaves_the_token_alone():
    model = tiny("vit", positions="sincos")
    tokens = model.tokens(jnp.zeros((1, 8, 8, 3)))
    np.testing.assert_allclose(tokens[0, 0], model.class_token[0, 0])
    np.testing.assert_allclose(tokens[0, 1:], sincos_2d(2, 32), rtol=1e-6)


@pytest.fixture(scope="module")
def batch_norms():
    """Returns (groups of 1, groups of 2), equal otherwise, with values that are not the initial
    ones."""
    norms = [BatchNorm(3, groups=g, rngs=Streams(0)) for g in (1, 2)]
    for norm in norms:
        norm.scale[...], norm.bias[...] = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 1.0, -1.0])
        norm.mean[...], norm.var[...] = jnp.array([1.0, -1.0, 0.5]), jnp.array([0.5, 1.0, 2.0])
    return norms


def test_batch_norm_groups_are_separate_batch_norms(batch_norms):
    ungrouped, grouped = map(nnx.clone, batch_norms)
    x = images(4, 3, 6) * jnp.arange(1.0, 7.0)[:, None, None, None] + 2  # the halves differ
    halves = [nnx.clone(ungrouped), nnx.clone(ungrouped)]
    expected = np.concatenate(
        [half(part) for half, part in zip(halves, jnp.split(x, 2), strict=True)]
    )
    np.testing.assert_allclose(grouped(x), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(ungrouped(x) - expected).max() > 0.1
    a, b = map(variables, halves)
    for key, value in variables(grouped).items():
        np.testing.assert_allclose(value, (a[key] + b[key]) / 2, rtol=1e-5)


def test_batch_norm_evaluates_with_the_running_averages(batch_norms):
    ungrouped, grouped = map(nnx.clone, batch_norms)
    x = images(4, 3, 5)  # 2 does not divide 5, nor need it here
    before = variables(grouped)
    for norm in (ungrouped, grouped):
        norm.eval()
    normalized = (x - before["mean"]) / np.sqrt(before["var"] + 1e-5)
    expected = normalized * ungrouped.scale[...] + ungrouped.bias[...]
    np.testing.assert_allclose(grouped(x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(grouped(x), ungrouped(x))
    for key, value in variables(grouped).items():
        np.testing.assert_array_equal(value, before[key])


def test_batch_norm_keeps_float32_statistics_for_bfloat16(batch_norms):
    _, grouped = map(nnx.clone, batch_norms)
    assert grouped(images(4, 3, 6).astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert {v.dtype for v in variables(grouped).values()} == {np.dtype("float32")}


def test_batch_norm_groups_must_divide_the_batch(batch_norms):
    with pytest.raises(
        UserError, match="batch_norm_groups = 2 does not divide the batch of 5 images"
    ):
        nnx.clone(batch_norms[1])(images(4, 3, 5))


def test_stochastic_depth():
    rate = 0.25
    batch = 4096
    layer = StochasticDepth(rate, rngs=Streams(0))
    y = np.array(layer(jnp.ones((batch, 2, 3))))
    assert set(np.unique(y)) == {0, np.float32(1 / (1 - rate))}
    assert (y == y[:, :1, :1]).all()  # a sample is dropped whole
    error = np.sqrt(rate / (1 - rate) / batch)
    assert abs(y[:, 0, 0].mean() - 1) < 4 * error
    assert (np.array(layer(jnp.ones((batch, 2, 3)))) != y).any()
    layer.eval()
    np.testing.assert_array_equal(layer(jnp.ones((2, 3))), 1)


def test_a_rate_of_zero_is_the_identity_and_keeps_no_state():
    for layer in (
        StochasticDepth(0.0, rngs=Streams(0)),
        Dropout(0.0, rngs=Streams(0)),
    ):
        np.testing.assert_array_equal(
            layer(jnp.arange(6.0).reshape(2, 3)), np.arange(6.0).reshape(2, 3)
        )
        assert not jax.tree.leaves(nnx.state(layer))


def test_stochastic_depth_rises_to_the_last_block():
    model = abstract(config("resnet", "cifar20", stochastic_depth=0.9))
    rates = [block.drop.rate for stage in model.stages for block in stage]
    np.testing.assert_allclose(rates, np.arange(1, 10) / 10)


def test_gelu_is_exact():
    x = jnp.linspace(-6, 6, 101)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "variant", "keys", "message"),
    [
        ("vitt", "Ti/4", {}, "vit.*resnet|resnet.*vit"),
        ("layers", "Ti/4", {}, "build"),
        ("nowhere.model", "x", {}, "nowhere.model"),
        ("vision.errors", "x", {}, "build"),
        ("vit", "Ti", {}, "Ti/PATCH.*Ti/4"),
        ("vit", "Ti/0", {}, "Ti/PATCH"),
        ("vit", "Q/4", {}, "mu/PATCH"),
        ("vit", "Ti/5", {}, "32 px .* patches of 5 px"),
        ("vit", "Ti/4", {"pool": "max"}, "token, mean"),
        ("vit", "Ti/4", {"positions": "learnt"}, "did you mean 'learned'"),
        ("vit", "Ti/4", {"dropout": 1.0}, "model.dropout must be .*, got 1.0"),
        ("vit", "Ti/4", {"remat": "block"}, "model.remat.*did you mean 'blocks'"),
        ("vit", "Ti/4", {"attention": "flash"}, "model.attention.*auto, plain, xla, cudnn"),
        (
            "vit",
            "Ti/4",
            {"attention": "cudnn"},
            "needs an NVIDIA GPU .*set model.attention to auto",
        ),
        (
            "vit",
            "Ti/4",
            {"batch_norm_groups": 2},
            "'vit' has no option 'batch_norm_groups'.*pool, positions",
        ),
        ("vit", "Ti/4", {"options": {"heads": 2}}, "no option 'heads'"),
        ("vit", "Ti/4", {"options": {"variant": "S/4"}}, "model.options cannot contain var"),
        ("vit", "Ti/4", {"dtype": "float16"}, "float32, bfloat16"),
        ("resnet", "cifar21", {}, "did you mean 'cifar"),
        ("resnet", "cifar20", {"pool": "mean"}, "'resnet' has no option 'pool'.*batch_norm_groups"),
        ("resnet", "cifar20", {"batch_norm_groups": 0}, "batch_norm_groups must be .*, got 0"),
        ("resnet", "cifar20", {"remat": "all"}, "model.remat.*none, dots, blocks"),
        (
            "resnet",
            "cifar20",
            {"stochastic_depth": -0.1},
            "model.stochastic_depth must be .*, got -0.1",
        ),
    ],
)
def test_user_errors(name, variant, keys, message):
    with pytest.raises(UserError, match=message):
        abstract(config(name, variant, **keys))


@pytest.mark.parametrize("size", [10, 12])
def test_images_of_another_size(size):
    with pytest.raises(UserError, match=f"images of 8 px, not {size} x {size}"):
        nnx.eval_shape(lambda: vit.build("mu/4", 10, image_size=8, rngs=Streams(0))(images(size)))


@pytest.mark.parametrize("name", names("vision.models"))
def test_every_architecture_accepts_what_it_is_offered(name):
    accepted = models.accepted_options(find("model", name, "vision.models").build)
    assert {"rngs", "dtype", "channels"} <= set(accepted)
    assert not {"variant", "num_classes", "options"} & set(accepted)
