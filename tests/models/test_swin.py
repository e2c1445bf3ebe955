"""Swin: against timm and torchvision, sizes, windows and their shift, options and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.architectures import check_reference, filled
from vision.errors import UserError
from vision.models import swin
from vision.models.layers.streams import Streams
from vision.models.layers.windows import (
    from_windows,
    regions,
    relative_positions,
    resize_biases,
    to_windows,
)

PARAMETERS = {  # as counted by timm, and by torchvision at 224 px
    ("T", 224, 7): 28_288_354,
    ("S", 224, 7): 49_606_258,
    ("B", 224, 7): 87_768_224,
    ("B", 384, 12): 87_903_584,
}


def build(variant="mu", classes=5, **keys):
    return swin.build(variant, classes, rngs=Streams(0), **{"image_size": 16, "window": 2} | keys)


@pytest.mark.parametrize(("name", "window"), [("swin", 4), ("swin_torchvision", 3)])
def test_reference(name, window):
    """timm's with windows that divide the maps; torchvision's with windows that do not."""
    check_reference(name, lambda: swin.Swin(8, (2, 2), 4, 5, window=window, rngs=Streams(0)), swin)


@pytest.mark.parametrize(("variant", "size", "window"), PARAMETERS)
def test_parameter_count(variant, size, window):
    model = nnx.eval_shape(lambda: build(variant, 1000, image_size=size, window=window))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == PARAMETERS[variant, size, window]


def test_weights_name_what_there_is():
    assert (
        {w.variant for w in swin.WEIGHTS.values()}
        == swin.PAPER_TOP1.keys()
        == swin.VARIANTS.keys() - {"mu"}
    )
    assert all(w.options.get("window", 7) * 32 == w.size for w in swin.WEIGHTS.values())


def test_windows_and_back():
    x = jnp.arange(2 * 6 * 4 * 3).reshape(2, 6, 4, 3)
    windows = to_windows(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    np.testing.assert_array_equal(windows[1, 3], x[1, 2:4, 2:4].reshape(4, 3))
    np.testing.assert_array_equal(from_windows(windows, 2, (6, 4)), x)


def test_regions_join_only_neighbors():
    """Of a shifted map of 4 x 4, the first window lies inside; the last holds the image's four
    corners."""
    region_ids = regions((4, 4), 2, (1, 1))
    assert [len(set(window)) for window in region_ids.tolist()] == [1, 2, 2, 4]
    np.testing.assert_array_equal(region_ids[1] == region_ids[1][0], [True, False, True, False])
    assert (regions((2, 4), 2, (0, 1))[0] == 3).all()  # one window high: nothing to part


def test_relative_positions():
    """Two tokens with the same offset share a bias, others do not."""
    table = relative_positions(3)
    assert table.shape == (9, 9) and len(np.unique(table)) == 25 == table.max() + 1
    assert table[0, 1] == table[4, 5] != table[1, 0]
    assert (np.diag(table) == 12).all()


def test_a_block_sees_its_window_and_a_shifted_one_its_neighbors():
    """The gradient of one pixel's result reaches the pixels of its window, and of no other."""
    reach = []
    for shifted in (False, True):
        keys = {
            "head_width": 4,
            "window": 2,
            "dropout": 0.0,
            "shifted": shifted,
            "dtype": jnp.float32,
        }
        block = filled(lambda keys=keys: swin.Block(4, 0.0, rngs=Streams(0), **keys))
        x = np.random.default_rng(1).normal(size=(1, 4, 4, 4)).astype(np.float32)
        gradient = jax.jit(jax.grad(lambda x, block=block: block(x)[0, 1, 1].sum()))(x)
        reach.append((np.abs(gradient[0]).max(-1) > 0).nonzero())
    np.testing.assert_array_equal(reach[0], [[0, 0, 1, 1], [0, 1, 0, 1]])
    np.testing.assert_array_equal(reach[1], [[1, 1, 2, 2], [1, 2, 1, 2]])


def test_biases_of_another_window():
    table = np.random.default_rng(0).normal(size=(13**2, 3)).astype(np.float32)
    resized = resize_biases(table, (23**2, 3))
    assert resized.shape == (23**2, 3)
    # the center stays
    np.testing.assert_allclose(resized[23**2 // 2], table[13**2 // 2], atol=1e-6)
    constant = resize_biases(np.full((9, 2), 3.0), (49, 2))
    np.testing.assert_allclose(constant, 3, rtol=1e-6)
    assert resize_biases(table, (23**2, 4)) is table  # other heads: no resizing helps


@pytest.mark.parametrize("train", [True, False])
def test_shapes_in_bfloat16(train):
    model = nnx.eval_shape(
        lambda: build(dtype=jnp.bfloat16, dropout=0.1, stochastic_depth=0.1, remat="blocks")
    )
    model.train() if train else model.eval()
    graph, state = nnx.split(model)

    def run(state, images):
        model = nnx.merge(graph, state)
        return model.features(images), model.embed(images), model(images)

    images = jax.ShapeDtypeStruct((2, 20, 12, 3), jnp.float32)  # any sides that 4 divides
    maps, embedding, logits = jax.eval_shape(run, state, images)
    shapes = {name: (x.shape, x.dtype.name) for name, x in maps.items()}
    expected = {"stem": (2, 5, 3, 8), "stages.0": (2, 5, 3, 8), "stages.1": (2, 3, 2, 16)}
    assert shapes == {name: (shape, "bfloat16") for name, shape in expected.items()}
    assert (embedding.shape, embedding.dtype, logits.shape, logits.dtype) == (
        (2, 16),
        "float32",
        (2, 5),
        "float32",
    )


def test_training_step():
    """Every parameter has a gradient, also those of shifted windows."""
    images = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype(np.float32)

    graph, params, rest = nnx.split(filled(build), nnx.Param, ...)
    step = jax.grad(lambda params: jnp.square(nnx.merge(graph, params, rest)(images)).mean())
    for path, leaf in nnx.to_flat_state(jax.jit(step)(params)):
        assert np.isfinite(leaf[...]).all() and np.abs(leaf[...]).max() > 0, path


def test_options():
    model = nnx.eval_shape(lambda: build(stochastic_depth=0.3, dropout=0.1))
    rates = [block.drop.rate for stage in model.stages for block in stage.blocks]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3])
    assert [block.attention.shift for stage in model.stages for block in stage.blocks] == [0, 1, 0]
    assert model.stem.dropout.rate == model.stages[0].blocks[0].attention.dropout.rate == 0.1
    assert model.stages[0].blocks[0].attention.positions.shape == (9, 2)


@pytest.mark.parametrize(
    ("variant", "keys", "message"),
    [
        ("XL", {}, "model.variant.*T, S, B"),
        ("mu", {"image_size": 30}, "whose side is a multiple of 4, not 30 px: set data.image_size"),
        ("mu", {"image_size": 0}, "multiple of 4, not 0 px"),
        ("mu", {"window": 0}, "model.options.window must be at least 1 patch, got 0"),
        ("mu", {"dropout": 1.0}, "model.dropout must be .*, got 1.0"),
        ("mu", {"remat": "all"}, "model.remat"),
    ],
)
def test_errors(variant, keys, message):
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: build(variant, **keys))


def test_images_that_cannot_be_cut():
    with pytest.raises(UserError, match="multiple of 4, not 18 px"):
        nnx.eval_shape(lambda: build()(jnp.zeros((1, 16, 18, 3))))
