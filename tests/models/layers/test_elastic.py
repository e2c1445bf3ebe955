"""Networks inside a larger one: the same numbers as the network that is cut out of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.mobile import SPACE, choices, cut, largest
from vision.errors import UserError
from vision.models import surgery
from vision.models.layers import elastic
from vision.models.layers.inverted_residual import round_width
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
