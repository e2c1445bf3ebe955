"""Runs any network of a space with the weights of its largest one.

Once-for-All, Cai et al. 2019 (arXiv:1908.09791), section 3.3: a smaller network has the first
channels, the first blocks of each stage and the centers of the kernels. As in BigNAS, Yu et al.
2020 (arXiv:2003.11142), no matrix transforms the centers. The network is traced, so one compiled
program serves all of them: channels are masked, at the cost of the most; kernels and squeezes, and
in evaluation mode blocks, are branches of the program that cost nothing unless they are taken.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision.errors import UserError
from vision.models.layers.variants import ELASTIC, Choice, Space, stages_of

SMALLEST = 3  # side of a kernel

Traced = dict[str, jax.Array]  # {letter: int32 (S,)}, the numbers of each of S stages


def as_arrays(choice: Choice) -> Traced:
    """Returns a network as the functions here take it."""
    stages = list(stages_of(choice))
    return {letter: jnp.array([stage[letter] for stage in stages]) for letter in ELASTIC}


def draw(space: Space, key: jax.Array) -> Traced:
    """Returns a network whose numbers are drawn uniformly and independently."""
    drawn = {}
    for place, letter in enumerate(ELASTIC):
        choices = [space.axes[f"{stage}.{letter}"] for stage in range(space.depth)]
        most = max(map(len, choices))
        table = np.array([(*numbers, *numbers[-1:] * (most - len(numbers))) for numbers in choices])
        counts = np.array(list(map(len, choices)))
        # The largest of float32's numbers below 1, times a count, rounds down to below the count.
        uniform = jax.random.uniform(jax.random.fold_in(key, place), (space.depth,), jnp.float32)
        index = jnp.minimum((uniform * counts).astype(jnp.int32), counts - 1)
        drawn[letter] = jnp.asarray(table)[jnp.arange(space.depth), index]
    return drawn


def logits(model: Any, images: jax.Array, choice: Traced) -> jax.Array:
    """Returns what a network of the space says.

    Args:
        model: the `vision.models.mobile_space.MobileSpace` of the space; its mode is the network's.
        images: float (B, H, W, C), normalized.
        choice: the network.

    Returns:
        float32 (B, num_classes).
    """
    x = model.stem(model.resize(images).astype(model.dtype))
    features: Any = x.shape[-1]
    *stages, last = model.stages
    for i, blocks in enumerate(stages):
        stage = {letter: numbers[i] for letter, numbers in choice.items()}
        for j, block in enumerate(blocks):
            x = _block(block, x, features, stage) if j == 0 else _later(j, block, x, stage)
            features = stage["w"]
    return model.head(model.pool(last[0](x)))


def _later(j: int, block: Any, x: jax.Array, stage: Mapping[str, Any]) -> jax.Array:
    """Returns the result of block j > 0 of a stage; x itself if the network lacks that block."""
    is_there = j < stage["d"]
    if block.project.norm.use_running_average:
        return jax.lax.cond(is_there, lambda x: _block(block, x, stage["w"], stage), lambda x: x, x)
    # In training mode the norms note their averages, which a branch must not do.
    return jnp.where(is_there, _block(block, x, stage["w"], stage), x)


def _block(block: Any, x: jax.Array, features: Any, stage: Mapping[str, Any]) -> jax.Array:
    """Returns the result of an `InvertedResidual` with fewer channels and a smaller kernel.

    Args:
        block: the block.
        x: (B, H, W, C), of which the first `features` channels are not 0.
        features: int32 ().
        stage: {letter: int32 ()}.
    """
    expanded = stage["e"] * features
    y = _first(block.expand(x), expanded)
    y = _first(_depthwise(block.depthwise, y, stage["k"]), expanded)
    if block.squeeze is not None:
        squeezed = _round_quarter(expanded)
        y = jax.lax.cond(
            stage["se"] > 0, lambda y: _squeeze(block.squeeze, y, squeezed), lambda y: y, y
        )
    y = _first(block.project(y), stage["w"])
    return y if block.drop is None else x + block.drop(y)


def _squeeze(gate: Any, x: jax.Array, squeezed: jax.Array) -> jax.Array:
    """Returns the result of a `SqueezeExcite` with the first `squeezed` hidden channels."""
    means = gate.means(x)
    hidden = _first(gate.act(gate.reduce(means)), squeezed)
    return x * gate.gate(gate.expand(hidden))


def _round_quarter(width: jax.Array) -> jax.Array:
    """Returns `inverted_residual.round_width(width / 4)`, int32, in integers."""
    rounded = jnp.maximum(8, (width + 16) // 32 * 8)
    return jnp.where(40 * rounded < 9 * width, rounded + 8, rounded)


def _first(x: jax.Array, count: jax.Array) -> jax.Array:
    """Returns x with 0 in all but its first channels."""
    return jnp.where(jnp.arange(x.shape[-1]) < count, x, jnp.zeros((), x.dtype))


def _depthwise(layer: Any, x: jax.Array, side: jax.Array) -> jax.Array:
    """Returns the result of a depthwise `ConvNorm` with the center of its kernel, `side` x `side`.

    A smaller kernel stands at the same places: those of the largest are padded as much less.
    """
    conv = layer.conv
    kernel = conv.kernel.get_value()
    largest = len(kernel)
    sides = range(SMALLEST, largest + 1, 2)

    def convolve(cut: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
        center = kernel[cut : largest - cut, cut : largest - cut]
        padding = conv.padding
        if not isinstance(padding, str):
            padding = [(low - cut, high - cut) for low, high in padding]
        return jax.lax.conv_general_dilated(
            x.astype(conv.dtype),
            center.astype(conv.dtype),
            (conv.strides,) * 2 if isinstance(conv.strides, int) else conv.strides,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=conv.feature_group_count,
        )

    branches = [functools.partial(convolve, (largest - side) // 2) for side in sides]
    x = layer.norm(jax.lax.switch((side - SMALLEST) // 2, branches, x, kernel))
    return x if layer.act is None else layer.act(x)


def cut(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Returns the weights of a network of the space.

    Args:
        arrays: {name: array} of the largest network.
        shapes: {name: shape} of the network's variables.

    Raises:
        UserError: the network is larger somewhere, or has another part.
    """
    parts = {}
    for name, shape in shapes.items():
        if name not in arrays or not _contains(arrays[name].shape, shape):
            there = f"is {arrays[name].shape} there" if name in arrays else "is not there"
            raise UserError(
                f"these weights have no such network: {name} {there}, {tuple(shape)} here"
            )
        starts = [0] * len(shape)
        if len(shape) == 4:
            centers = zip(arrays[name].shape[:2], shape[:2], strict=True)
            starts[:2] = [(length - part) // 2 for length, part in centers]
        ends = [start + part for start, part in zip(starts, shape, strict=True)]
        parts[name] = arrays[name][tuple(map(slice, starts, ends))]
    return parts


def _contains(shape: Sequence[int], part: Sequence[int]) -> bool:
    """Returns whether an array of a shape has a part of another one."""
    return len(shape) == len(part) and all(map(int.__ge__, shape, part))
