"""Quantization-aware training: layers compute with rounded inputs and weights, as INT8 will.

Jacob et al. 2018 (arXiv:1712.05877), section 3. In the forward pass, each convolution and dense
layer takes rounded numbers, on the grids of `vision.compression.int8`: each output channel of a
kernel has a scale of its own, which a BatchNorm that is folded into the kernel later does not
change; the layer's input has a single scale and zero point. In the backward pass, the gradient
passes through as if nothing were rounded (Bengio et al. 2013, arXiv:1308.3432). The weights are
learned for INT8: in float they may be worse.

`qwix` does the rounding. Its `quantize_model` would replace functions of JAX by name while a
model's `__call__` runs: calls of `features` or `head`, and depthwise convolutions on a CPU, would
silently stay in float.

An input's range is that of the current batch. It is the range that "minmax" finds on as many images
afterwards, follows the weights at once, and needs no state: the variables of a model are the same
with and without. Operations between the layers, such as additions, compute as usual, and so does
the product of queries and keys.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import UserError, check_choice
from vision.models.surgery import LowRank
from vision.support.extras import require

# Steps from 0 to a channel's largest weight, as `vision.compression.int8` counts them.
STEPS = {"none": 0, "int8": 127, "int7": 64}
QWIX_STEPS = 127.5  # the same, as qwix counts them for int8


def simulate(model: nnx.Module, name: str) -> None:
    """Makes every `nnx.Conv` and `nnx.Linear` of a model compute with rounded numbers, in place.

    Args:
        model: the model, abstract or not, whose layers compute in float32 or float64.
        name: one of `STEPS`; "int7" for weights of 7 bits, as CPUs without integer dot products
            need; "none" changes nothing.

    Raises:
        UserError: the name is unknown; qwix is not installed; the model has no such layer, one that
            computes in 16 bits, or a `LowRank`, of which only the sum is quantized later.
    """
    check_choice("objective.quantize", name, tuple(STEPS))
    if name == "none":
        return
    _check(model, name)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = _Rounded(module.conv_general_dilated, STEPS[name])
        elif isinstance(module, nnx.Linear):
            module.dot_general = _Rounded(module.dot_general, STEPS[name])


def _check(model: nnx.Module, name: str) -> None:
    require(f"objective.quantize = '{name}'", "compression", only=("qwix",))
    modules = [module for _, module in nnx.iter_modules(model)]
    if any(isinstance(module, LowRank) for module in modules):
        raise UserError(
            f"objective.quantize = '{name}' and transfer.mode = 'lora' cannot be combined: train "
            "with lora first, then give that run as model.pretrained with transfer.mode=full"
        )
    layers = [module for module in modules if isinstance(module, nnx.Conv | nnx.Linear)]
    if not layers:
        raise UserError(
            f"objective.quantize = '{name}' needs a model with nnx.Conv or nnx.Linear layers, "
            "which this one lacks: set it to none"
        )
    if any(module.dtype is not None and jnp.dtype(module.dtype).itemsize < 4 for module in layers):
        raise UserError(
            f"objective.quantize = '{name}' needs model.dtype=float32: 16-bit rounding is about "
            "as coarse as that of INT8"
        )


@dataclasses.dataclass(frozen=True)
class _Rounded:
    """A convolution or a product of rounded numbers; a kernel's last axis is its output channels.

    Attributes:
        compute: the convolution or product, of (x, kernel, ...).
        steps: steps of the kernel's grid, one of `STEPS`.
    """

    compute: Callable[..., jax.Array]
    steps: int

    def __call__(
        self, x: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any
    ) -> jax.Array:
        return self.compute(
            round_activations(x), round_weights(kernel, self.steps), *arguments, **options
        )


def round_activations(x: jax.Array) -> jax.Array:
    """Rounds x to 256 values from its smallest to its largest; the gradient passes through.

    One of the values is 0.

    Args:
        x: float array.

    Returns:
        An array like x: scale * (q - zero), with q and zero among 256 successive integers.
    """
    return _straight_through(x, calibration_method="minmax")


def round_weights(kernel: jax.Array, steps: int) -> jax.Array:
    """Rounds a kernel to `steps` steps on either side of 0; the gradient passes through.

    The last step is each channel's largest weight.

    Args:
        kernel: float (..., Cout).
        steps: steps of the grid, at most 127.

    Returns:
        An array like the kernel: scale (Cout,) * q, with integers q from -steps to steps.
    """
    method = f"absmax,{QWIX_STEPS / steps!r}"
    return _straight_through(kernel, calibration_method=method, channelwise_axes=(kernel.ndim - 1,))


def _straight_through(x: jax.Array, **options: Any) -> jax.Array:
    import qwix

    rounded = qwix.dequantize(qwix.quantize(x, jnp.int8, **options))
    # Exactly the rounded numbers: the second term is 0, and has the gradient of x.
    return jax.lax.stop_gradient(rounded) + (x - jax.lax.stop_gradient(x))
