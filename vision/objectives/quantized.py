"""Quantization-aware training: layers compute with what INT8 leaves of their inputs and weights.

Jacob et al. 2018 (arXiv:1712.05877), section 3. Forward, each convolution and dense layer takes
rounded numbers, on the grids of `vision.compression.int8`: of a kernel's, each output channel has a
scale of its own, which a BatchNorm that is folded into it later does not change; of what goes into
the layer, all have one scale and one zero point. Backward, the gradient passes through as if
nothing was rounded (Bengio et al. 2013, arXiv:1308.3432). What is learned is for INT8: in float it
may be worse.

`qwix` rounds. Its `quantize_model` would replace functions of JAX by name while a model's
`__call__` runs: `features` and `head` alone, and depthwise convolutions on a CPU, would stay as
they are, without a word.

An input's range is that of the batch at hand. It is what "minmax" finds on as many images
afterwards, follows the weights at once, and leaves nothing to keep: the variables of a model are
the same with and without. What lies between the layers, as additions, is computed as always, and so
is the product of queries and keys.
"""

import dataclasses
import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import UserError, check_choice
from vision.models.surgery import LowRank

# of a channel's largest weight, as `vision.compression.int8` counts them
STEPS = {"none": 0, "int8": 127, "int7": 64}
QWIX_STEPS = 127.5  # that qwix has for it


def simulate(model, name):
    """Makes every `nnx.Conv` and `nnx.Linear` of a model compute with rounded numbers. Changes it
    in place.

    Args:
        model: `nnx.Module`, abstract or not, whose layers compute in float32 or float64.
        name: one of `STEPS`; "int7" for weights of 7 bits, as CPUs without integer dot products
            need; "none" changes nothing.

    Raises:
        UserError: an unknown name; qwix is not installed; there is no such layer, one computes in
            16 bits, or is a `LowRank`'s, whose sum alone is quantized later.
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


def _check(model, name):
    try:
        importlib.import_module("qwix")
    except ImportError as error:
        raise UserError(
            f"objective.quantize = '{name}' needs qwix: pip install 'vision[compression]'"
        ) from error
    modules = [module for _, module in nnx.iter_modules(model)]
    if any(isinstance(module, LowRank) for module in modules):
        raise UserError(
            f"objective.quantize = '{name}' and transfer.mode = 'lora' cannot go together: train with lora first, then "
            "give that run as model.pretrained with transfer.mode=full"
        )
    layers = [module for module in modules if isinstance(module, nnx.Conv | nnx.Linear)]
    if not layers:
        raise UserError(
            f"objective.quantize = '{name}': the model has no nnx.Conv and no nnx.Linear, leave it at none"
        )
    if any(module.dtype is not None and jnp.dtype(module.dtype).itemsize < 4 for module in layers):
        raise UserError(
            f"objective.quantize = '{name}' needs model.dtype=float32: 16 bits round about as coarsely as INT8 does"
        )


@dataclasses.dataclass(frozen=True)
class _Rounded:
    """A convolution or a product of rounded numbers; output channels are the kernel's last axis."""

    compute: Callable
    steps: int

    def __call__(self, x, kernel, *arguments, **options):
        return self.compute(
            round_activations(x), round_weights(kernel, self.steps), *arguments, **options
        )


def round_activations(x):
    """Rounds x to 256 values from its least to its largest, one of which is 0; the gradient passes
    through.

    Args:
        x: float array.

    Returns:
        As x: scale * (q - zero), with q and zero among 256 successive integers.
    """
    return _straight_through(x, calibration_method="minmax")


def round_weights(kernel, steps):
    """Rounds a kernel to `steps` steps on either side of 0, the last of them each channel's
    largest; as above.

    Args:
        kernel: float (..., Cout).
        steps: int, up to 127.

    Returns:
        As the kernel: scale (Cout,) * q, with q from -steps to steps.
    """
    method = f"absmax,{QWIX_STEPS / steps!r}"
    return _straight_through(kernel, calibration_method=method, channelwise_axes=(kernel.ndim - 1,))


def _straight_through(x, **how):
    import qwix

    # The rounded numbers to the last bit: what is added is 0, and has x's gradient.
    return jax.lax.stop_gradient(qwix.dequantize(qwix.quantize(x, jnp.int8, **how))) + (
        x - jax.lax.stop_gradient(x)
    )
