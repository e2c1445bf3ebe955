"""Attention by name, and blocks that are computed again in the backward pass."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vision.errors import UserError
from vision.models.layers import common as layers
from vision.models.resnet import ResNet
from vision.models.vit import ViT
from vision.training.state import StateSpec


def model(name, depth=1, dtype="float64", dropout=0.2, **keys):
    keys |= {
        "dtype": jnp.dtype(dtype),
        "dropout": dropout,
        "stochastic_depth": dropout,
        "rngs": nnx.Rngs(0),
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
        found = {}
        for remat in layers.REMATS:
            step = gradient_step(StateSpec(functools.partial(model, request.param, remat=remat)))
            (loss, statistics), gradient = jax.device_get(step(params, rest, images))
            found[remat] = loss, statistics, gradient
        return found


@pytest.mark.parametrize("remat", ["dots", "blocks"])
def test_remat_changes_no_result(results, remat):
    """Loss, running statistics and gradient are the same: what is computed again draws the same
    dropout."""
    ours = results[remat]
    expected = results["none"]
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert max(np.abs(g).max() for g in jax.tree.leaves(expected[2])) > 1e-3


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_remat_keeps_less_for_the_backward_pass(name):
    """The bytes between forward and backward pass. (XLA's CPU backend undoes the saving, so it is
    not the peak.)"""

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

    none, dots, blocks = map(kept, layers.REMATS)
    assert dots < 0.75 * none
    assert blocks < 0.5 * dots


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("bfloat16", 2e-2)])
def test_attention_by_name(float64, dtype, tolerance):
    """Plain and xla are the softmax of eq. 1, written out in NumPy; xla's is rounded to float32 in
    between."""
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 5, 3, 8))
    weights = np.exp(np.einsum("bnhd,bmhd->bhnm", q, k) / 8**0.5)
    expected = np.einsum("bhnm,bmhd->bnhd", weights / weights.sum(-1, keepdims=True), v)
    for name in ("plain", "xla"):
        ours = layers.attention(*(jnp.asarray(x, dtype) for x in (q, k, v)), name)
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.astype(float), expected, rtol=0, atol=tolerance)
    if dtype == "float64":
        np.testing.assert_allclose(layers.attention(q, k, v, "plain"), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("capability", "backend", "tokens", "depth", "dtype", "chosen"),
    [
        (None, "cpu", 197, 64, "bfloat16", "plain"),
        ("9.0", "gpu", 197, 64, "bfloat16", "cudnn"),
        ("9.0", "gpu", 65, 64, "bfloat16", "xla"),  # too short
        ("9.0", "gpu", 197, 64, "float32", "xla"),
        ("9.0", "gpu", 197, 256, "float16", "cudnn"),
        ("8.0", "gpu", 197, 256, "bfloat16", "xla"),  # too deep before Hopper
        ("10.0", "gpu", 197, 60, "bfloat16", "xla"),  # 8 does not divide
        ("7.5", "gpu", 197, 64, "float16", "xla"),
        ("gfx90a", "gpu", 197, 64, "bfloat16", "xla"),  # AMD's
        (None, "tpu", 197, 64, "bfloat16", "xla"),
    ],
)
def test_automatic_attention(monkeypatch, capability, backend, tokens, depth, dtype, chosen):
    """The rule, for devices that are not here."""
    device = types.SimpleNamespace(**({"compute_capability": capability} if capability else {}))
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert layers.choose_attention("auto", tokens, depth, jnp.dtype(dtype)) == chosen
    if chosen != "cudnn" and tokens > 128:
        with pytest.raises(UserError, match="or set model.attention to auto"):
            layers.choose_attention("cudnn", tokens, depth, jnp.dtype(dtype))
