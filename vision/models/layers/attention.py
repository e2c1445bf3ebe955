"""Softmax attention, and the choice of its implementation."""

import re

import jax
import jax.numpy as jnp

from vision.errors import UserError, check_choice
from vision.models.layers.dtypes import at_least_float32

ATTENTIONS = ("auto", "plain", "xla", "cudnn")


def attention(query, key, value, name="auto"):
    """Softmax attention without a mask. Vaswani et al. 2017 (arXiv:1706.03762), eq. 1.

    Args:
        query, key, value: (B, N, heads, D).
        name: one of `ATTENTIONS`; see `choose_attention`.

    Returns:
        (B, N, heads, D), in their dtype. The softmax is at least float32.

    Raises:
        UserError: as `choose_attention`.
    """
    _, tokens, _, depth = query.shape
    name = choose_attention(name, tokens, depth, query.dtype)
    if name != "plain":
        return jax.nn.dot_product_attention(query, key, value, implementation=name)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    scores = (query @ key.swapaxes(2, 3)).astype(at_least_float32(query.dtype))
    weights = jax.nn.softmax(scores * depth**-0.5)
    return (weights.astype(value.dtype) @ value).swapaxes(1, 2)


def choose_attention(name, tokens, depth, dtype):
    """Returns "plain", "xla" or "cudnn": what `attention` computes with.

    "plain" is two matrix products, heads first. "xla" is `jax.nn.dot_product_attention`, which
    rounds to float32 inside. "cudnn" is NVIDIA's fused kernel, which never stores the (N, N)
    scores. "auto" is plain on a CPU, where it takes a quarter less time than xla; on an NVIDIA GPU
    cudnn, where it takes the shapes and there are at least 128 tokens; else xla. The rule for GPUs
    was not measured: scripts/bench/attention.py measures it.

    Args:
        name: one of `ATTENTIONS`.
        tokens: N, int.
        depth: of a head, int.
        dtype: of query, key and value.

    Raises:
        UserError: an unknown name; or cudnn, where it cannot be had.
    """
    check_choice("model.attention", name, ATTENTIONS)
    if name in ("plain", "xla"):
        return name
    missing = _missing_for_cudnn(depth, dtype)
    if name == "cudnn" and missing:
        raise UserError(
            f"model.attention = 'cudnn' needs {missing}, or set model.attention to auto"
        )
    if name == "cudnn" or (not missing and tokens >= 128):
        return "cudnn"
    return "plain" if jax.default_backend() == "cpu" else "xla"


def _missing_for_cudnn(depth, dtype):
    """Returns what cuDNN's attention needs and has not here, None if nothing: JAX's own conditions,
    and Ampere."""
    # "8.0" on an NVIDIA GPU, "gfx90a" on an AMD one; a CPU has none.
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    if not re.fullmatch(r"\d+\.\d+", capability) or float(capability) < 8:
        return "an NVIDIA GPU of compute capability 8.0 or above, which is not here: run on one"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"a computation in 16 bits, not {jnp.dtype(dtype).name}: set model.dtype to bfloat16"
    limit = 256 if float(capability) >= 9 else 128
    if depth > limit or depth % 8:
        return f"heads of a depth up to {limit} that 8 divides, not {depth}: choose another model.variant"
    return None
