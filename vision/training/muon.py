"""Muon (Jordan 2024): momentum whose matrices are made orthogonal by Newton-Schulz steps."""

import collections
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

RMS = 0.2  # of an update, as AdamW's


def muon(momentum: float, b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Returns Muon for the hidden layers' matrices and filters, AdamW without decay for the rest.

    Its updates are scaled to AdamW's root mean square of 0.2 (Liu et al. 2025, arXiv:2502.16982,
    section 2.2), so that one learning rate and one weight decay serve both. They point downhill
    and have the rate 1.

    Args:
        momentum: Muon's.
        b1, b2: AdamW's.
        eps: of both.
    """
    adam = optax.adamw(1.0, b1, b2, eps, weight_decay=0.0, nesterov=True)
    transforms = {"muon": optax.chain(_orthogonal(momentum, eps), optax.scale(-1.0)), "adam": adam}
    return optax.partition(transforms, _labels)


def _labels(params):
    flat = traverse_util.flatten_dict(params)
    labels = {path: "muon" if _is_hidden(path, v) else "adam" for path, v in flat.items()}
    return traverse_util.unflatten_dict(labels)


def _is_hidden(path, value):
    is_kernel = path[-1] == "kernel" and value.ndim in (2, 4)
    return is_kernel and not {"head", "patches", "stem"} & set(path)


def _orthogonal(momentum, eps):
    """Returns Optax's Muon for kernels, those of one shape in one batch of matrices.

    A ViT-nano has 24 kernels, and each takes fifteen small products: batched, they start four
    times fifteen. The state is the same as without.
    """
    inner = optax.contrib.scale_by_muon(
        beta=momentum, eps=eps, weight_dimension_numbers=_matrix_axes
    )

    def update(updates, state, params=None):
        batch, unbatch = _by_shape(updates)
        batched, new = inner.update(batch(updates), state._replace(mu=batch(state.mu)))
        scaled = {shape: RMS * math.sqrt(_longest(shape)) * x for shape, x in batched.items()}
        return unbatch(scaled), new._replace(mu=unbatch(new.mu))

    return optax.GradientTransformation(inner.init, update)


def _by_shape(tree: Any) -> tuple[Callable[[Any], dict], Callable[[dict], Any]]:
    """Returns (a function that stacks the arrays of such a tree by shape, its inverse)."""
    leaves, structure = jax.tree.flatten(tree)
    groups = collections.defaultdict(list)
    for number, leaf in enumerate(leaves):
        groups[leaf.shape].append(number)

    def batch(tree):
        arrays = jax.tree.leaves(tree)
        return {shape: jnp.stack([arrays[i] for i in group]) for shape, group in groups.items()}

    def unbatch(stacks):
        arrays = list(leaves)
        for shape, group in groups.items():
            for number, array in zip(group, stacks[shape], strict=True):
                arrays[number] = array
        return jax.tree.unflatten(structure, arrays)

    return batch, unbatch


def _matrix_axes(stacks):
    """Returns which axes of stacked kernels are the inputs' and the outputs'."""
    return {
        shape: optax.contrib.MuonDimensionNumbers(
            reduction_axis=tuple(range(1, len(shape))), output_axis=len(shape)
        )
        for shape in stacks
    }


def _longest(shape):
    """Returns the longer side of a kernel as a matrix of inputs by outputs."""
    return max(math.prod(shape[:-1]), shape[-1])
