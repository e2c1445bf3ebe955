"""Inception v3: against torchvision, sizes, the auxiliary head, names, options and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.architectures import check_reference, load_reference
from tests.support.references import FOLDER
from vision.errors import UserError
from vision.models import inception
from vision.models.layers.streams import Streams
from vision.models.weights.names import file_name, translate


def build(variant="mu", classes=5, **keys):
    return inception.build(variant, classes, rngs=Streams(0), **keys)


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def names(model):
    state = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    return {".".join(map(str, path)): variable for path, variable in state}


def test_reference():
    """One of each kind of block, on gray images of 107 px."""
    check_reference("inception", lambda: build(channels=1), inception)


def test_auxiliary_reference():
    with np.load(FOLDER / "inception_auxiliary.npz") as file:
        reference = dict(file)
    model = nnx.eval_shape(lambda: build(auxiliary=True, dropout=0.0))
    variables = {k: v for k, v in names(model).items() if k.startswith("auxiliary")}
    arrays = {
        k.removeprefix("weights/"): v for k, v in reference.items() if k.startswith("weights/")
    }
    translated = translate(inception, {k: v.shape for k, v in variables.items()}, arrays)
    for name, variable in variables.items():
        variable.set_value(jnp.asarray(translated[name]))
    model.eval()
    logits = model.auxiliary_logits({"stages.1": reference["features"]})
    np.testing.assert_allclose(logits, reference["logits"], atol=1e-5)


@pytest.mark.parametrize(("auxiliary", "expected"), [(False, 23_834_568), (True, 27_161_264)])
def test_parameter_count(auxiliary, expected):
    """As counted by timm and torchvision."""
    model = nnx.eval_shape(lambda: build("v3", 1000, auxiliary=auxiliary))
    assert count(model) == expected
    assert any(name.startswith("auxiliary") for name in names(model)) == auxiliary


def test_names():
    """Of each convolution that has a name of its own in timm and torchvision."""
    for ours, other in {
        "stem.0.conv.kernel": "Conv2d_1a_3x3.conv.weight",
        "stem.4.norm.var": "Conv2d_4a_3x3.bn.running_var",
        "stages.0.2.branches.pool.0.norm.scale": "Mixed_5d.branch_pool.bn.weight",
        "stages.1.0.branches.3x3.0.conv.kernel": "Mixed_6a.branch3x3.conv.weight",
        "stages.1.0.branches.3x3dbl.2.conv.kernel": "Mixed_6a.branch3x3dbl_3.conv.weight",
        "stages.1.4.branches.7x7dbl.4.norm.mean": "Mixed_6e.branch7x7dbl_5.bn.running_mean",
        "stages.1.4.branches.1x1.0.norm.mean": "Mixed_6e.branch1x1.bn.running_mean",
        "stages.2.0.branches.3x3.0.conv.kernel": "Mixed_7a.branch3x3_1.conv.weight",
        "stages.2.2.branches.3x3.1.wide.conv.kernel": "Mixed_7c.branch3x3_2a.conv.weight",
        "stages.2.2.branches.3x3dbl.2.tall.norm.bias": "Mixed_7c.branch3x3dbl_3b.bn.bias",
        "auxiliary.layers.1.conv.kernel": "AuxLogits.conv1.conv.weight",
        "auxiliary.head.bias": "AuxLogits.fc.bias",
        "head.kernel": "fc.weight",
    }.items():
        assert file_name(ours, inception.NAMES["timm"]) == other


def test_weights_without_a_place_for_the_auxiliary_head():
    """It is ignored where the model has none, and missed where the file has none."""
    model, both = (nnx.eval_shape(lambda a=a: build(auxiliary=a)) for a in (False, True))

    def file(model):
        arrays = {}
        for name, variable in names(model).items():
            turned = (
                np.moveaxis(np.empty(variable.shape), (-1, -2), (0, 1))
                if variable.ndim > 1
                else variable
            )
            arrays[file_name(name, inception.NAMES["timm"])] = np.empty(turned.shape, np.float32)
        return arrays

    def shapes(model):
        return {name: variable.shape for name, variable in names(model).items()}

    assert translate(inception, shapes(model), file(both)).keys() == names(model).keys()
    assert translate(inception, shapes(both), file(both)).keys() == names(both).keys()
    with pytest.raises(UserError, match="AuxLogits.conv0.conv.weight is missing"):
        translate(inception, shapes(both), file(model))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("variant", "size", "sides"), [("mu", 75, (7, 7, 3, 1)), ("v3", 299, (35, 35, 17, 8))]
)
def test_shapes_in_bfloat16(train, variant, size, sides):
    keys = {"image_size": size, "auxiliary": size == 299, "batch_norm_groups": 2, "remat": "dots"}
    model = nnx.eval_shape(lambda: build(variant, dtype=jnp.bfloat16, **keys))
    model.train() if train else model.eval()
    graph, state = nnx.split(model)

    def run(state, images):
        model = nnx.merge(graph, state)
        maps = model.features(images)
        return (
            maps,
            model.pool(maps["stages.2"]),
            model(images),
            model.auxiliary and model.auxiliary_logits(maps),
        )

    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    maps, embedding, logits, auxiliary = jax.eval_shape(run, state, images)
    divisor = 1 if variant == "v3" else 32
    widths = (192, 288, 768, 2048) if variant == "v3" else (6, 8, 24, 64)
    expected = [
        ((2, side, side, width), "bfloat16") for side, width in zip(sides, widths, strict=True)
    ]
    assert [
        (maps[k].shape, maps[k].dtype.name) for k in ("stem", "stages.0", "stages.1", "stages.2")
    ] == expected
    assert (embedding.shape, embedding.dtype) == ((2, 2048 // divisor), "float32")
    assert (logits.shape, logits.dtype) == ((2, 5), "float32")
    assert auxiliary is None or (auxiliary.shape, auxiliary.dtype) == ((2, 5), "float32")


def test_training_step():
    """Every parameter has a gradient, and the statistics move."""
    model, reference = load_reference(
        "inception", lambda: build(channels=1, dropout=0.0), inception
    )
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, rest, images):
        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            return jnp.square(model(images) - 1).mean(), nnx.state(model, nnx.BatchStat)

        return jax.value_and_grad(loss, has_aux=True)(params)

    # Twice as high: a mean over 3x3 of a map of 2x2 is the same everywhere.
    images = np.concatenate([reference["images"], reference["images"]], 1)
    (loss, after), gradient = step(params, rest, images)
    assert np.isfinite(loss)
    for path, leaf in nnx.to_flat_state(gradient):
        assert np.isfinite(leaf[...]).all() and np.abs(leaf[...]).max() > 0, path
    before = nnx.state(model, nnx.BatchStat)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.abs(a - b).max() > 0


def test_initialization():
    def kernels():
        model = build(auxiliary=True)
        auxiliary = model.auxiliary
        last = model.stages[2][1].branches["3x3dbl"][1].conv.kernel
        return [
            k[...]
            for k in (
                last,
                auxiliary.layers[1].conv.kernel,
                auxiliary.head.kernel,
                model.head.kernel,
            )
        ]

    for kernel, deviation in zip(jax.jit(kernels)(), (0.1, 0.01, 0.001, 0.1), strict=True):
        assert 1.6 * deviation < np.abs(kernel).max() <= 2 * deviation


@pytest.mark.parametrize(
    ("variant", "keys", "message"),
    [
        ("v4", {}, "model.variant.*v3"),
        (
            "v3",
            {"image_size": 74},
            "'inception' takes images of 75 px or more, not 74: set data.image_size",
        ),
        (
            "v3",
            {"image_size": 298, "auxiliary": True},
            "auxiliary head.* takes images of 299 px or more, not 298",
        ),
        ("v3", {"dropout": 1.0}, "model.dropout must be .*, got 1.0"),
        ("v3", {"batch_norm_groups": 0}, "batch_norm_groups must be .*, got 0"),
        ("v3", {"remat": "all"}, "model.remat"),
    ],
)
def test_errors(variant, keys, message):
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: build(variant, **keys))


def test_auxiliary_logits_need_the_auxiliary_head():
    with pytest.raises(
        UserError, match="no auxiliary head: build it with the option auxiliary=True"
    ):
        nnx.eval_shape(lambda: build().auxiliary_logits({}))
