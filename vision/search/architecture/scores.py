"""Scores of a network before any training, to skip hopeless candidates.

synflow: the sum over all weights of |weight x d R / d weight|, with R the sum of the outputs for an
image of ones and the weights' magnitudes. Tanaka et al. 2020 (arXiv:2006.05467), eq. 3; as a score
of a network, in the logarithm, Abdelfattah et al. 2021 (arXiv:2101.08134), section 3.1. BatchNorm
is in evaluation mode, so at the start it changes nothing.

naswot: log |det K|, with K the number of units that two images have on the same side of 0. Mellor
et al. 2021 (arXiv:2006.04647), eq. 2, for ReLU; here the side of 0 that a unit's input is on,
whatever its activation, in the layers of `ConvNorm` with an activation.

grad_norm: the norm of the gradient of the loss on a batch. Abdelfattah et al. 2021, section 3.1.

More is better. All three prefer large networks.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.models.layers.convolution import ConvNorm
from vision.objectives.supervised import cross_entropy

BATCH = 64  # images


def synflow(model: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the score of a model.

    Args:
        model: the initialized `nnx.Module`.
        images: float (B, H, W, C), of which only the shape counts.
        labels: int (B,), not used.
    """
    del labels
    model.eval()
    # Double precision: the product of all layers' sums soon leaves the range of float32.
    with jax.enable_x64(True):
        graph, params, *rest = nnx.split(model, nnx.Param, ...)
        params = jax.tree.map(lambda x: jnp.abs(jnp.asarray(x, jnp.float64)), params)
        ones = jnp.ones((1, *images.shape[1:]), jnp.float64)

        @jax.jit
        def score(params: Any) -> jax.Array:
            gradients = jax.grad(lambda p: nnx.merge(graph, p, *rest, copy=True)(ones).sum())(
                params
            )
            flows = jax.tree.map(lambda p, g: (p * jnp.abs(g)).sum(), params, gradients)
            return jnp.log(sum(jax.tree.leaves(flows)))

        return float(score(params))


def naswot(model: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the score of a model; the arguments are those of `synflow`, the labels do not count.

    It is -inf if two images are the same to the network.
    """
    del labels
    model.train()
    graph, state = nnx.split(model)

    @jax.jit
    def kernel(state: Any, images: jax.Array) -> jax.Array:
        copy = nnx.merge(graph, state, copy=True)
        codes: list[jax.Array] = []
        for _, module in nnx.iter_modules(copy):
            if isinstance(module, ConvNorm) and module.act is not None:
                module.act = _recording(module.act, codes)
        copy(images)
        code = jnp.concatenate(codes, axis=1)
        return code @ code.T + (1 - code) @ (1 - code).T

    sign, log = np.linalg.slogdet(np.asarray(kernel(state, jnp.asarray(images)), np.float64))
    return float(log) if sign > 0 else float("-inf")


def _recording(act: Callable[[jax.Array], jax.Array], codes: list[jax.Array]) -> Any:
    """Returns an activation that also appends which of its inputs are above 0, float (B, units)."""

    def recorded(x: jax.Array) -> jax.Array:
        codes.append((x > 0).reshape(len(x), -1).astype(jnp.float32))
        return act(x)

    return recorded


def grad_norm(model: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the score of a model; the arguments are those of `synflow`."""
    model.train()
    graph, params, *rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def norm(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        def loss(params: Any) -> jax.Array:
            logits = nnx.merge(graph, params, *rest, copy=True)(images)
            return cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1])).mean()

        squares = jax.tree.map(lambda g: jnp.square(g).sum(), jax.grad(loss)(params))
        return jnp.sqrt(sum(jax.tree.leaves(squares)))

    return float(norm(params, jnp.asarray(images), jnp.asarray(labels)))


SCORES = {"synflow": synflow, "naswot": naswot, "grad_norm": grad_norm}
