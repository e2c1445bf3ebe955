"""Wide ResNets against nets of torch's own layers under their port's names; sizes, options and
errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.architectures import check_reference, load_reference
from vision import models
from vision.config import default
from vision.errors import UserError
from vision.models import wide_resnet
from vision.models.layers.streams import Streams
from vision.models.weights.names import file_name

# with 10 classes, as PyTorch counts the nets of make/wide_resnet.py; the paper has 11.0, 36.5 and
# 2.2 million for "16-8", "28-10" and "40-2"
PARAMETERS = {
    "16-8": 10_961_370,
    "28-2": 1_467_610,
    "28-10": 36_479_194,
    "40-2": 2_243_546,
    "mu": 5_166,
}


def create(**keys):
    return wide_resnet.WideResNet(2, 2, 5, 2, rngs=Streams(0), **keys)


def abstract(variant="mu", classes=7, channels=3, **keys):
    c = default().model
    c.update(name="wide_resnet", variant=variant)
    for key, value in keys.items():
        (c if key in c else c.options)[key] = value
    return nnx.eval_shape(lambda: models.build(c, classes, 32, channels, Streams(0)))


def test_reference():
    check_reference("wide_resnet", create, wide_resnet)


def test_reference_with_a_leak():
    """Not widened, so the first block's shortcut is the identity."""

    def create():
        return wide_resnet.WideResNet(1, 1, 5, 4, leak=0.1, rngs=Streams(0))

    check_reference("wide_resnet_leaky", create, wide_resnet)


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameter_count(variant):
    leaves = jax.tree.leaves(nnx.state(abstract(variant, 10), nnx.Param))
    assert sum(leaf.size for leaf in leaves) == PARAMETERS[variant]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize("variant", [name for name in PARAMETERS if name != "mu"])
def test_the_depth_counts_all_convolutions(variant):
    """Depths are 6 n + 4: two convolutions a block, the stem and the three projections."""
    model = abstract(variant)
    convolutions = sum(2 for stage in model.stages for _ in stage)
    projections = sum(block.projection is not None for stage in model.stages for block in stage)
    depth, widening = wide_resnet.VARIANTS[variant]
    assert 1 + convolutions + projections == depth
    assert model.head.in_features == 64 * widening


def test_names():
    rules = wide_resnet.NAMES["pytorch"]
    assert file_name("stem.kernel", rules) == "conv1.weight"
    assert file_name("stages.2.3.norm2.var", rules) == "block3.layer.3.bn2.running_var"
    assert file_name("stages.0.0.conv1.kernel", rules) == "block1.layer.0.conv1.weight"
    assert file_name("stages.1.0.projection.kernel", rules) == "block2.layer.0.convShortcut.weight"
    assert file_name("norm.scale", rules) == "bn1.weight"
    assert file_name("head.bias", rules) == "fc.bias"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "channels"), [(32, 3), (29, 1)])
def test_maps_and_dtypes(size, channels, dtype):
    keys = {"dropout": 0.3, "stochastic_depth": 0.1, "leak": 0.1, "batch_norm_groups": 2}
    graph, state = nnx.split(abstract("28-2", channels=channels, dtype=dtype, **keys))
    names = []

    def run(state, images):
        model = nnx.merge(graph, state, copy=True)
        model.train()
        maps = model.features(images)
        names[:] = maps
        return maps, model.pool(maps["last"]), model.embed(images), model(images)

    images = jax.ShapeDtypeStruct((4, size, size, channels), jnp.float32)
    maps, pooled, embedding, logits = jax.eval_shape(run, state, images)
    sides = (size, size, -(-size // 2), -(-size // 4), -(-size // 4))
    widths = (16, 32, 64, 128, 128)
    assert names == ["stem", "stages.0", "stages.1", "stages.2", "last"]
    assert [maps[name].shape for name in names] == [
        (4, side, side, width) for side, width in zip(sides, widths, strict=True)
    ]
    assert {x.dtype for x in maps.values()} == {jnp.dtype(dtype)}
    assert pooled.shape == embedding.shape == (4, 128) and logits.shape == (4, 7)
    assert pooled.dtype == embedding.dtype == logits.dtype == jnp.float32


def test_training_step():
    """Every parameter has a gradient, and the statistics move by 1 - batch_norm_momentum."""
    keys = {"dropout": 0.3, "stochastic_depth": 0.1, "remat": "dots", "batch_norm_momentum": 0.75}
    model, reference = load_reference("wide_resnet", lambda: create(**keys), wide_resnet)
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
    stem = reference["outputs/stem"].mean((0, 1, 2))
    norm = model.stages[0][0].norm1
    np.testing.assert_allclose(
        after["stages"][0][0]["norm1"]["mean"][...],
        0.75 * norm.mean[...] + 0.25 * stem,
        rtol=1e-4,
        atol=1e-6,
    )


def test_dropout_is_between_the_convolutions():
    """Nothing passes the second convolution if it drops nearly all; the shortcut does."""
    model = create(dropout=1 - 1e-7)
    model.train()
    block = model.stages[0][1]
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 4))
    np.testing.assert_array_equal(block(x), x)
    model.eval()
    assert np.abs(block(x) - x).max() > 0.1


@pytest.mark.parametrize(
    ("variant", "keys", "message"),
    [
        ("28-20", {}, "model.variant = '28-20' is unknown.*28-2"),
        ("mu", {"dropout": 1.0}, "model.dropout must be .*, got 1.0"),
        ("mu", {"leak": 1.0}, r"model.options.leak must be in \[0, 1\), got 1.0"),
        ("mu", {"batch_norm_momentum": -0.1}, "batch_norm_momentum must be in .*, got -0.1"),
        ("mu", {"width": 8}, "no option 'width'; its options: dropout"),
    ],
)
def test_user_errors(variant, keys, message):
    with pytest.raises(UserError, match=message):
        abstract(variant, **keys)
