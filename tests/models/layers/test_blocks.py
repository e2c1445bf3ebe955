"""Blocks that are computed again in the backward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.layers.blocks import REMATS
from vision.models.layers.streams import Streams
from vision.models.resnet import ResNet
from vision.models.vit import ViT
from vision.training.state import StateSpec


def model(name, depth=1, dtype="float64", dropout=0.2, **keys):
    keys |= {
        "dtype": jnp.dtype(dtype),
        "dropout": dropout,
        "stochastic_depth": dropout,
        "rngs": Streams(0),
    }
    if name == "vit":
        return ViT(16, depth, 2, 4, 5, image_size=8, **keys)
    return ResNet((depth,), 4, 5, bottleneck=False, cifar=True, zero_init_residual=False, **keys)


def gradient_step(spec):
    def step(params, rest, images):
        def loss(params):
            model = spec.merge(params, rest, jax.random.key(1))
            model.train()
            return jnp.square(model(images) - 1).sum(), spec.take_apart(model)[1]

        return jax.value_and_grad(loss, has_aux=True)(params)

    return jax.jit(step)


@pytest.fixture(scope="module", params=["vit", "resnet"])
def results(request):
    """Returns {remat: (loss, statistics, gradient)} of one step in float64, with dropout."""
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        params, rest = StateSpec(functools.partial(model, request.param)).initialize()
        params = jax.tree.map(
            lambda x: np.asarray(x + 0.1 * random.standard_normal(x.shape)), params
        )
        images = random.standard_normal((6, 8, 8, 3))
        results_by_remat = {}
        for remat in REMATS:
            step = gradient_step(StateSpec(functools.partial(model, request.param, remat=remat)))
            (loss, statistics), gradient = jax.device_get(step(params, rest, images))
            results_by_remat[remat] = loss, statistics, gradient
        return results_by_remat


@pytest.mark.parametrize("remat", ["dots", "blocks"])
def test_remat_changes_no_result(results, remat):
    """Loss, statistics and gradient are the same: a recomputed block draws the same dropout."""
    ours = results[remat]
    expected = results["none"]
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert max(np.abs(g).max() for g in jax.tree.leaves(expected[2])) > 1e-3


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_remat_keeps_less_for_the_backward_pass(name):
    """Fewer bytes are kept; the peak is not measured, as XLA's CPU backend undoes the saving."""

    def kept(remat):
        spec = StateSpec(functools.partial(model, name, 6, "float32", remat=remat))
        params, rest = jax.eval_shape(spec.initialize)

        def backward(params, rest, images):
            def run(params):
                model = spec.merge(params, rest, jax.random.key(1))
                model.train()
                return model(images)

            return jax.vjp(run, params)[1]

        images = jax.ShapeDtypeStruct((64, 8, 8, 3), jnp.float32)
        leaves = jax.tree.leaves(jax.eval_shape(backward, params, rest, images))
        return sum(
            leaf.size * leaf.dtype.itemsize
            for leaf in leaves
            if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        )

    none, dots, blocks = map(kept, REMATS)
    assert dots < 0.75 * none
    assert blocks < 0.5 * dots
