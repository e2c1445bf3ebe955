"""Low-rank updates of layers (LoRA)."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import UserError
from vision.models.layers.convolution import Conv
from vision.models.surgery.submodules import get_child, locate, set_child
from vision.models.surgery.variables import freeze


class LowRank(nnx.Module):
    """A layer with a low-rank update: base(x) + scale * up(down(x)).

    Hu et al. 2021 (arXiv:2106.09685). `up` starts at zero, so that the layer starts unchanged.

    Args:
        base: a dense layer, or a convolution without groups.
        rank: rank of the update.
        scale: alpha / rank.
        rngs: random streams; `params` is used.
    """

    def __init__(self, base: Any, rank: int, scale: float, *, rngs: nnx.Rngs):
        self.base = base
        self.scale = scale
        zeros = nnx.initializers.zeros_init()
        options: dict[str, Any] = {"dtype": base.dtype, "rngs": rngs}
        is_convolution = isinstance(base, nnx.Conv)
        if is_convolution:
            self.down = Conv(
                base.in_features,
                rank,
                base.kernel_size,
                base.strides,
                padding=base.padding,
                **options,
            )
            self.up = Conv(rank, base.out_features, 1, kernel_init=zeros, **options)
        else:
            init = nnx.initializers.he_uniform()
            options["use_bias"] = False
            self.down = type(base)(base.in_features, rank, kernel_init=init, **options)
            self.up = type(base)(rank, base.out_features, kernel_init=zeros, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        update = self.up(self.down(x))
        return self.base(x) + update * jnp.asarray(self.scale, update.dtype)

    def merged(self) -> nnx.Module:
        """Returns the base layer with the update added to its kernel."""
        down = self.down.kernel[...]
        up = self.up.kernel[...].reshape(-1, self.base.out_features)
        kernel = self.base.kernel
        kernel.set_value(kernel[...] + (self.scale * (down @ up)).astype(kernel.dtype))
        return self.base


def add_low_rank(
    model: nnx.Module, pattern: str, rank: int, alpha: float, *, rngs: nnx.Rngs
) -> None:
    """Gives each dense layer and convolution whose name matches `pattern` a low-rank update.

    Only the updates and the head then learn. Depthwise and grouped convolutions and the head get
    no update.

    Raises:
        UserError: the pattern matches no layer, or is not a regular expression.
    """
    layers = [
        ".".join(map(str, path))
        for path, module in nnx.iter_modules(model)
        if _can_be_low_rank(module)
    ]
    try:
        layers = [name for name in layers if re.search(pattern, name) and not is_in_head(name)]
    except re.error as error:
        raise UserError(
            f"transfer.lora_layers = '{pattern}' is not a regular expression: {error}"
        ) from error
    if not layers:
        raise UserError(
            f"transfer.lora_layers = '{pattern}' matches no layer of the model; "
            "it must be a regular expression"
        )
    freeze(model, lambda name: not is_in_head(name))
    for name in layers:
        parent, key = locate(model, name)
        set_child(parent, key, LowRank(get_child(parent, key), rank, alpha / rank, rngs=rngs))


def merge_low_rank(model: nnx.Module) -> None:
    """Replaces every `LowRank` by its base layer, with the update added to it."""
    layers = [
        ".".join(map(str, path))
        for path, module in nnx.iter_modules(model)
        if isinstance(module, LowRank)
    ]
    for name in layers:
        parent, key = locate(model, name)
        set_child(parent, key, get_child(parent, key).merged())


def plain_name(name: str) -> str:
    """Returns the name that a variable had before `add_low_rank`."""
    return name.replace(".base.", ".")


def is_in_head(name: str) -> bool:
    """Returns whether a variable or layer of this name belongs to the head."""
    return name.split(".")[0] == "head"


def _can_be_low_rank(module):
    if isinstance(module, nnx.Conv):
        return module.feature_group_count == 1
    return isinstance(module, nnx.Linear)
