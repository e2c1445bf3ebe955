"""Attention by name."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.layers.attention import attention, choose_attention


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("bfloat16", 2e-2)])
def test_attention_by_name(float64, dtype, tolerance):
    """Plain and xla are eq. 1 as written out in NumPy; xla rounds to float32 in between."""
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 5, 3, 8))
    weights = np.exp(np.einsum("bnhd,bmhd->bhnm", q, k) / 8**0.5)
    expected = np.einsum("bhnm,bmhd->bnhd", weights / weights.sum(-1, keepdims=True), v)
    for name in ("plain", "xla"):
        ours = attention(*(jnp.asarray(x, dtype) for x in (q, k, v)), name)
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.astype(float), expected, rtol=0, atol=tolerance)
    if dtype == "float64":
        np.testing.assert_allclose(attention(q, k, v, "plain"), expected, rtol=0, atol=1e-14)


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
    assert choose_attention("auto", tokens, depth, jnp.dtype(dtype)) == chosen
    if chosen != "cudnn" and tokens > 128:
        with pytest.raises(UserError, match="or set model.attention to auto"):
            choose_attention("cudnn", tokens, depth, jnp.dtype(dtype))
