"""Softmax attention, and the choice of its implementation."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vision.errors import UserError, check_choice
from vision.models.layers.dtypes import at_least_float32

ATTENTIONS = ("auto", "plain", "xla", "cudnn")


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    name: str = "auto",
    mask: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention. Vaswani et al. 2017 (arXiv:1706.03762), eq. 1.

    Args:
        query: (B, N, heads, D).
        key, value: (B, M, heads, D).
        name: one of `ATTENTIONS`; see `choose_attention`.
        mask: bool (B, N, M), which keys each query attends to, at least one; None for all. With a
            mask, cudnn is not used.

    Returns:
        (B, N, heads, D), in their dtype. The softmax is at least float32.

    Raises:
        UserError: see `choose_attention`.
    """
    _, tokens, _, depth = query.shape
    name = choose_attention(name, tokens, depth, query.dtype)
    if mask is not None:
        mask = mask[:, None]
        name = "xla" if name == "cudnn" else name
    if name != "plain":
        implementation: Any = name  # mypy knows it as a str only
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, implementation=implementation
        )
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    scores = (query @ key.swapaxes(2, 3)).astype(at_least_float32(query.dtype))
    scores = scores * depth**-0.5
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores)
    return (weights.astype(value.dtype) @ value).swapaxes(1, 2)


def choose_attention(name: str, tokens: int, depth: int, dtype: DTypeLike) -> str:
    """Returns the implementation that `attention` uses: "plain", "xla" or "cudnn".

    "plain" is two matrix products, heads first. "xla" is `jax.nn.dot_product_attention`, which
    rounds to float32 inside. "cudnn" is NVIDIA's fused kernel, which never stores the (N, N)
    scores. "auto" is plain on a CPU, where it takes a quarter less time than xla; on an NVIDIA GPU
    it is cudnn if cudnn supports the shapes and there are at least 128 tokens; otherwise xla. The
    rule for GPUs was not measured: scripts/bench/attention.py measures it.

    Args:
        name: one of `ATTENTIONS`.
        tokens: sequence length N.
        depth: width D of a head.
        dtype: dtype of query, key and value.

    Raises:
        UserError: the name is unknown, or cudnn is not available.
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
    """Returns the requirement of cuDNN's attention that is not met here, or None.

    The requirements are JAX's own, and Ampere.
    """
    # "8.0" on an NVIDIA GPU, "gfx90a" on an AMD one; a CPU has none.
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    if not re.fullmatch(r"\d+\.\d+", capability) or float(capability) < 8:
        return "an NVIDIA GPU of compute capability 8.0 or above: run on one"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"a 16-bit dtype, not {jnp.dtype(dtype).name}: set model.dtype to bfloat16"
    limit = 256 if float(capability) >= 9 else 128
    if depth > limit or depth % 8:
        return (
            f"a head width of at most {limit} that is divisible by 8, not {depth}: "
            "choose another model.variant"
        )
    return None
