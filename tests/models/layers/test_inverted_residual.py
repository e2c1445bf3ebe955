"""MobileNetV3, EfficientNet and EfficientNet-Lite: against other libraries, and their options."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.architectures import check_reference, load_reference
from vision.errors import UserError
from vision.models import efficientnet, efficientnet_lite, mobilenet
from vision.models.layers.inverted_residual import TENSORFLOW, nest, round_width
from vision.models.layers.streams import Streams

PARAMETERS = {  # as counted by timm; those of EfficientNet and MobileNetV3 by torchvision too
    (mobilenet, "large"): 5_483_032,
    (mobilenet, "small"): 2_542_856,
    (efficientnet, "B0"): 5_288_548,
    (efficientnet, "B1"): 7_794_184,
    (efficientnet, "B2"): 9_109_994,
    (efficientnet, "B3"): 12_233_232,
    (efficientnet, "B4"): 19_341_616,
    (efficientnet, "B5"): 30_389_784,
    (efficientnet, "B6"): 43_040_704,
    (efficientnet, "B7"): 66_347_960,
    (efficientnet_lite, "0"): 4_652_008,
    (efficientnet_lite, "1"): 5_416_680,
    (efficientnet_lite, "2"): 6_092_072,
    (efficientnet_lite, "3"): 8_197_096,
    (efficientnet_lite, "4"): 13_006_568,
}
MODULES = [mobilenet, efficientnet, efficientnet_lite]


def abstract(module, variant="mu", classes=7, **keys):
    """Returns the model with shapes in place of numbers."""
    return nnx.eval_shape(lambda: module.build(variant, classes, rngs=Streams(0), **keys))


def large(module, variant):
    """Returns the model without random streams: with them B7's shapes take 10 s, not 2."""
    rngs = types.SimpleNamespace(params=lambda: jax.random.key(0))
    return nnx.eval_shape(
        lambda: module.build(variant, 1000, rngs=rngs, dropout=0.0, stochastic_depth=0.0)
    )


def blocks(model):
    return [block for stage in model.stages for block in stage if hasattr(block, "drop")]


@pytest.mark.parametrize(
    ("name", "module", "options"),
    [
        ("mobilenet_timm", mobilenet, {}),
        ("mobilenet_torchvision", mobilenet, {"norm_epsilon": 1e-3}),
        ("efficientnet_timm", efficientnet, {}),
        ("efficientnet_torchvision", efficientnet, {"norm_epsilon": 1e-3}),
        ("efficientnet_lukemelas", efficientnet, TENSORFLOW),
        ("efficientnet_lite_timm", efficientnet_lite, {}),
        ("efficientnet_lite_lukemelas", efficientnet_lite, TENSORFLOW),
    ],
)
def test_equals_reference(name, module, options):
    check_reference(name, lambda: module.build("mu", 7, rngs=Streams(0), **options), module)


@pytest.mark.parametrize(("module", "variant"), PARAMETERS)
def test_parameter_count(module, variant):
    model = large(module, variant)
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == PARAMETERS[module, variant]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("module", MODULES)
def test_bfloat16(module, mode):
    """Maps have the compute dtype, and sides round up; embeddings and logits are float32."""
    model = abstract(module, dtype=jnp.bfloat16, channels=1, stochastic_depth=0.1)
    getattr(model, mode)()
    graph, state = nnx.split(model)

    def run(state, x):
        model = nnx.merge(graph, state, copy=True)
        return list(model.features(x).items()), model.embed(x), model(x)

    maps, embedding, logits = nnx_shapes(run, state, (2, 33, 33, 1))
    last = "stages.2" if module is mobilenet else "last"
    assert [name for name, _ in maps] == ["stem", "stages.0", "stages.1", last]
    assert {m.dtype for _, m in maps} == {jnp.dtype("bfloat16")}
    assert maps[-1][1].shape[1:3] == (9, 9)
    assert (embedding.shape, embedding.dtype) == ((2, model.head.in_features), jnp.float32)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


def nnx_shapes(run, state, shape):
    """Returns what `run` gives for the state and images of this shape; names stay as they are."""
    names = []

    def arrays(state, x):
        maps, *others = run(state, x)
        names[:] = [name for name, _ in maps]
        return [value for _, value in maps], *others

    maps, *others = jax.eval_shape(arrays, state, jax.ShapeDtypeStruct(shape, jnp.float32))
    return list(zip(names, maps, strict=True)), *others


def test_mobilenet_options():
    model = abstract(mobilenet, "small", dropout=0.1, stochastic_depth=0.5, batch_norm_groups=2)
    chain = blocks(model)
    kept = (3, 5, 6, 8, 10, 11)  # those whose shape stays
    assert [i for i, block in enumerate(chain, 1) if block.drop is not None] == list(kept)
    np.testing.assert_allclose([chain[i - 1].drop.rate for i in kept], [0.5 * i / 11 for i in kept])
    assert [block.squeeze is not None for block in chain] == [True, False, False] + 8 * [True]
    assert model.dropout.rate == 0.1
    assert model.stem.norm.groups == chain[-1].project.norm.groups == 2


def test_compound_scaling():
    """Lite3 scales neither the ends' widths nor the depth of the first and the last stage."""
    scaled = {}
    for module, variant in ((efficientnet, "B3"), (efficientnet_lite, "3")):
        model = large(module, variant)
        widths = [stage[0].project.conv.out_features for stage in model.stages]
        ends = model.stem.conv.out_features, model.last.conv.out_features
        scaled[module] = ends, widths, [len(stage) for stage in model.stages]
    widths = [24, 32, 48, 96, 136, 232, 384]
    assert scaled[efficientnet] == ((40, 1536), widths, [2, 3, 3, 5, 5, 6, 2])
    assert scaled[efficientnet_lite] == ((32, 1280), widths, [1, 3, 3, 5, 5, 6, 1])


def test_efficientnet_options():
    model = abstract(efficientnet, "B0")
    chain = blocks(model)
    np.testing.assert_allclose(chain[2].drop.rate, 0.2 * 3 / 16)
    # A quarter of what enters the block, not of what it widens to.
    assert [b.squeeze.reduce.out_features for b in chain[:3]] == [8, 4, 6]
    assert all(block.squeeze is None for block in blocks(large(efficientnet_lite, "0")))
    assert abstract(efficientnet).dropout.rate == 0.2
    assert [abstract(efficientnet, dropout=rate).dropout.rate for rate in (0.0, 0.4)] == [0.0, 0.4]


def test_round_width():
    assert [round_width(w) for w in (1, 11, 12, 18, 19.2, 26.4, 30)] == [8, 16, 16, 24, 24, 24, 32]


def test_nest():
    """A stage begins where the width changes; other names stay."""
    arrays = {f"_blocks.{i}.last": np.zeros((width, 1)) for i, width in enumerate((4, 4, 8, 6))}
    arrays = {f"_blocks.{i}.bias": i for i in range(4)} | arrays | {"_fc": 0}
    expected = {
        "_blocks.0.0.bias": 0,
        "_blocks.0.1.bias": 1,
        "_blocks.1.0.bias": 2,
        "_blocks.2.0.bias": 3,
    }
    nested = nest(arrays, "_blocks", "last")
    assert {name: value for name, value in nested.items() if "bias" in name} == expected
    assert len(nested) == len(arrays)
    assert nested["_fc"] == 0


@pytest.mark.parametrize(
    ("variant", "keys", "message"),
    [
        ("nu", {}, "model.variant = 'nu' is unknown: choose from .*mu"),
        ("mu", {"padding": "SAME"}, "model.padding = 'SAME' is unknown.*symmetric, same"),
        ("mu", {"norm_epsilon": 0}, "model.norm_epsilon must be above 0"),
        ("mu", {"dropout": 1.0}, "model.dropout must be .*, got 1.0"),
        ("mu", {"stochastic_depth": -0.1}, "model.stochastic_depth must be .*, got -0.1"),
        ("mu", {"remat": "all"}, "model.remat = 'all'"),
        ("mu", {"batch_norm_groups": 0}, "model.batch_norm_groups must be .*, got 0"),
    ],
)
@pytest.mark.parametrize("module", MODULES)
def test_user_errors(module, variant, keys, message):
    with pytest.raises(UserError, match=message):
        abstract(module, variant, **keys)


@pytest.mark.parametrize(
    ("module", "remat"),
    [(mobilenet, "none"), (efficientnet, "none"), (efficientnet_lite, "blocks")],
)
def test_a_training_step(module, remat):
    """Every parameter has a finite gradient, and every running average moves."""
    name = module.__name__.rpartition(".")[2] + "_timm"
    keys = {"dropout": 0.0, "stochastic_depth": 0.0, "remat": remat}
    model, reference = load_reference(
        name, lambda: module.build("mu", 7, rngs=Streams(0), **keys), module
    )
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, rest, images):
        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            return -jax.nn.log_softmax(model(images))[:, 0].mean(), nnx.state(model, nnx.BatchStat)

        return jax.grad(loss, has_aux=True)(params)

    gradient, averages = step(params, rest, reference["images"])
    for path, value in nnx.to_flat_state(gradient):
        assert np.isfinite(value[...]).all(), path
        assert np.abs(value[...]).max() > 0, path
    before = nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
    for (path, old), (_, new) in zip(before, nnx.to_flat_state(averages), strict=True):
        assert np.isfinite(new[...]).all(), path
        assert (np.array(old[...]) != new[...]).all(), path


def test_known_weights_name_variants():
    for module in MODULES:
        assert {
            weights.variant for weights in module.WEIGHTS.values()
        } == module.VARIANTS.keys() - {"mu"}
        options = {tuple(weights.options.items()) for weights in module.WEIGHTS.values()}
        for each in options:
            abstract(module, **dict(each))
