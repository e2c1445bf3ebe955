"""Networks inside a larger one: the same numbers as the network that is cut out of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.mobile import SPACE, choices, cut, largest
from vision.errors import UserError
from vision.models import surgery
from vision.models.layers import elastic
from vision.models.layers.convolution import ConvNorm
from vision.models.layers.inverted_residual import round_width
from vision.models.layers.norms import BatchNorm
from vision.models.layers.variants import choice_of, parse

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 12, 12, 3)), jnp.float32)


@pytest.fixture(scope="module")
def whole():
    return largest()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_network_computes_the_same_inside_and_cut_out(mode, whole):
    getattr(whole, mode)()
    graph, state = nnx.split(whole)
    programs = []

    @jax.jit
    def inside(state, choice):
        programs.append(choice)
        return elastic.logits(nnx.merge(graph, state, copy=True), IMAGES, choice)

    arrays = surgery.arrays(whole)
    for choice in choices(3):
        network = cut(arrays, choice)
        getattr(network, mode)()
        own_graph, own_state = nnx.split(network)
        expected = jax.jit(lambda s, g=own_graph: nnx.merge(g, s, copy=True)(IMAGES))(own_state)
        scale = np.abs(expected).max()
        result = inside(state, elastic.as_arrays(choice))
        np.testing.assert_allclose(result / scale, expected / scale, atol=2e-6)
    assert len(programs) == 1  # it was traced once for all


@pytest.mark.parametrize("padding", [None, "SAME"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_smaller_kernel_stands_at_the_same_places(stride, padding):
    norm = functools.partial(BatchNorm, rngs=nnx.Rngs(0))
    layer = ConvNorm(
        *(3, 3, 7, stride),
        norm=norm,
        groups=3,
        padding=padding,
        dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    layer.eval()
    graph, state = nnx.split(layer)
    layers = [nnx.merge(graph, state, copy=True) for _ in range(3)]
    kernel = layer.conv.kernel.get_value()
    for masked, side in zip(layers, (3, 5, 7), strict=True):
        edge = (7 - side) // 2
        inside = np.pad(np.ones((side, side, 1, 1), np.float32), [(edge, edge)] * 2 + [(0, 0)] * 2)
        masked.conv.kernel.set_value(kernel * inside)
    result = [elastic._depthwise(layer, IMAGES, jnp.int32(side)) for side in (3, 5, 7)]
    expected = [masked(IMAGES) for masked in layers]
    np.testing.assert_allclose(jnp.stack(result), jnp.stack(expected), atol=1e-5)


def test_the_kernels_are_whole_afterwards(whole):
    whole.eval()
    graph, state = nnx.split(whole)

    @jax.jit
    def after(state, choice):
        model = nnx.merge(graph, state, copy=True)
        elastic.logits(model, IMAGES, choice)
        return nnx.state(model, nnx.Param)

    params = after(state, elastic.as_arrays(parse(SPACE).smallest()))
    for path, variable in nnx.to_flat_state(params):
        name = ".".join(map(str, path))
        np.testing.assert_array_equal(variable[...], surgery.arrays(whole)[name], err_msg=name)


def test_drawn_networks_are_uniform():
    space = parse(SPACE)
    keys = jax.random.split(jax.random.key(0), 3000)
    drawn = jax.jit(jax.vmap(lambda key: elastic.draw(space, key)))(keys)
    for letter, numbers in drawn.items():
        for stage in range(space.depth):
            allowed = space.axes[f"{stage}.{letter}"]
            values, counts = np.unique(numbers[:, stage], return_counts=True)
            assert tuple(values) == allowed
            share = 1 / len(allowed)
            error = np.sqrt(share * (1 - share) / len(keys)) if share < 1 else 1e-9
            assert (np.abs(counts / len(keys) - share) < 5 * error).all()


def test_hidden_channels_are_rounded_as_in_the_model():
    widths = np.arange(1, 3000)
    expected = [round_width(width / 4) for width in widths]
    np.testing.assert_array_equal(elastic._round_quarter(jnp.asarray(widths)), expected)


def test_a_network_of_another_supernet(whole):
    larger = choice_of("c8-w8e2-w32e2s2-h32")
    with pytest.raises(UserError, match=r"no such network: .* is \(.*\) there, \(.*\) here"):
        cut(surgery.arrays(whole), larger)
    deeper = choice_of("c8-w8d3e2-w16e2s2-h32")
    with pytest.raises(UserError, match="stages.0.2.* is not there"):
        cut(surgery.arrays(whole), deeper)
