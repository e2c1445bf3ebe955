"""Changes a model by selection: what learns, a new head, modules put in between, low-rank changes.

All functions take any `nnx.Module` that follows the contract of `vision.models`, abstract or not,
and change it in place. A variable's name is its path, "blocks.0.attention.qkv.kernel".
"""

import re

import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.errors import UserError
from vision.models.layers.convolution import Conv
from vision.models.layers.norms import BatchNorm


class Frozen(nnx.Variable):
    """A parameter that does not learn: it has no gradient and no optimizer state."""


def names(model):
    """Returns {name: variable} of all of a model's variables but random streams."""
    state = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    return {".".join(map(str, path)): variable for path, variable in state}


def arrays(model):
    """Returns {name: NumPy array} of the variables that `names` returns."""
    return {name: np.asarray(variable.get_value()) for name, variable in names(model).items()}


def freeze(model, chosen):
    """Freezes every parameter whose name `chosen(name)` accepts.

    A `BatchNorm` without a parameter that learns keeps its statistics too: it then normalizes as in
    evaluation.
    """
    for path, module in nnx.iter_modules(model):
        for key, value in list(vars(module).items()):
            if isinstance(value, nnx.Param) and chosen(".".join(map(str, (*path, key)))):
                setattr(module, key, Frozen(value.get_value()))
        if isinstance(module, BatchNorm):
            module.frozen = not any(isinstance(value, nnx.Param) for value in vars(module).values())


def replace_head(model, num_classes, *, rngs):
    """Gives the model a new `head`, an `nnx.Linear` for another number of classes, which starts at
    zero."""
    old = model.head
    model.head = nnx.Linear(
        old.in_features,
        num_classes,
        kernel_init=nnx.initializers.zeros_init(),
        dtype=old.dtype,
        rngs=rngs,
    )


def insert_after(model, name, module):
    """Puts `module` behind the submodule `name`, whose result it then changes; the two become an
    `nnx.Sequential`.

    Raises:
        UserError: there is no such submodule.
    """
    parent, key = _find(model, name)
    _set(parent, key, nnx.Sequential(_get(parent, key), module))


def count(model):
    """Returns (parameters, those that learn)."""
    sizes = [
        (isinstance(v, nnx.Param), v.size)
        for v in names(model).values()
        if isinstance(v, nnx.Param | Frozen)
    ]
    return sum(size for _, size in sizes), sum(size for learns, size in sizes if learns)


def depths(model):
    """Returns {name: layer} of all variables, counted from 0 at the image to the head.

    What comes before the first list of blocks is layer 0, each block of a list is one layer, what
    follows a list belongs to its last block, and the head is the last layer. It follows from the
    order in which a model sets its attributes, which is that in which it uses them; of a model that
    was taken apart and merged nnx has forgotten it.
    """
    layer_of = {}
    layer = 0
    inside = False
    for prefix, is_block in _units(model, ""):
        if prefix == "head" or is_block:
            layer = layer + (1 if inside or layer_of else 0)
            inside = True
        layer_of[prefix] = layer
    owner = {name: next(p for p in _prefixes(name) if p in layer_of) for name in names(model)}
    return {name: layer_of[prefix] for name, prefix in owner.items()}


def _prefixes(name):
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts), 0, -1)]


def _units(module, prefix):
    """Yields (name, whether it is a block of a list) of what holds variables, in the order of
    use."""
    for key, value in vars(module).items():
        name = f"{prefix}{key}"
        if isinstance(value, nnx.List):
            yield from _blocks(value, name)
        elif isinstance(value, nnx.Variable | nnx.Module):
            yield name, False


def _blocks(values, name):
    for i, value in enumerate(values):
        inner = value if isinstance(value, nnx.List) else getattr(value, "blocks", None)
        if isinstance(value, nnx.List):
            yield from _blocks(value, f"{name}.{i}")
        elif isinstance(inner, nnx.List):
            yield from _units(value, f"{name}.{i}.")
        else:
            yield f"{name}.{i}", True


class LowRank(nnx.Module):
    """A layer, and a change to it of low rank: base(x) + scale * up(down(x)). Hu et al. 2021
    (arXiv:2106.09685).

    `up` starts at zero, so that the layer starts as it was.

    Args:
        base: a dense layer, or a convolution whose channels all mix.
        rank: of the change, int.
        scale: alpha / rank, float.
        rngs: nnx's streams: `params`.
    """

    def __init__(self, base, rank, scale, *, rngs):
        self.base = base
        self.scale = scale
        zero = nnx.initializers.zeros_init()
        if isinstance(base, nnx.Conv):
            options = {"dtype": base.dtype, "rngs": rngs}
            self.down = Conv(
                base.in_features,
                rank,
                base.kernel_size,
                base.strides,
                padding=base.padding,
                **options,
            )
            self.up = Conv(rank, base.out_features, 1, kernel_init=zero, **options)
        else:
            options = {"use_bias": False, "dtype": base.dtype, "rngs": rngs}
            init = nnx.initializers.he_uniform()
            self.down = type(base)(base.in_features, rank, kernel_init=init, **options)
            self.up = type(base)(rank, base.out_features, kernel_init=zero, **options)

    def __call__(self, x):
        change = self.up(self.down(x))
        return self.base(x) + change * jnp.asarray(self.scale, change.dtype)

    def merged(self):
        """Returns the base with the change added to its kernel."""
        down = self.down.kernel[...]
        up = self.up.kernel[...].reshape(-1, self.base.out_features)
        kernel = self.base.kernel
        kernel.set_value(kernel[...] + (self.scale * (down @ up)).astype(kernel.dtype))
        return self.base


def add_low_rank(model, pattern, rank, alpha, *, rngs):
    """Makes each dense layer and convolution whose name `pattern` finds a `LowRank`; only they and
    the head then learn.

    Depthwise and grouped convolutions are left as they are, and so is the head.

    Raises:
        UserError: the pattern finds no layer.
    """
    found = [
        ".".join(map(str, path))
        for path, module in nnx.iter_modules(model)
        if _can_be_low_rank(module)
    ]
    try:
        found = [
            name for name in found if re.search(pattern, name) and name.split(".")[0] != "head"
        ]
    except re.error as error:
        raise UserError(
            f"transfer.lora_layers = '{pattern}' is no regular expression: {error}"
        ) from error
    if not found:
        raise UserError(
            f"transfer.lora_layers = '{pattern}' finds no layer of the model; it is a regular expression"
        )
    freeze(model, lambda name: name.split(".")[0] != "head")
    for name in found:
        parent, key = _find(model, name)
        _set(parent, key, LowRank(_get(parent, key), rank, alpha / rank, rngs=rngs))


def merge_low_rank(model):
    """Adds every `LowRank`'s change to its layer, which takes its place again."""
    found = [
        ".".join(map(str, path))
        for path, module in nnx.iter_modules(model)
        if isinstance(module, LowRank)
    ]
    for name in found:
        parent, key = _find(model, name)
        _set(parent, key, _get(parent, key).merged())


def plain_name(name):
    """Returns the name that a variable had before `add_low_rank`."""
    return name.replace(".base.", ".")


def _can_be_low_rank(module):
    return isinstance(module, nnx.Linear) or (
        isinstance(module, nnx.Conv) and module.feature_group_count == 1
    )


def _find(model, name):
    """Returns (the module or list that holds it, its key) of a submodule."""
    *above, key = (int(part) if part.isdecimal() else part for part in name.split("."))
    parent = model
    try:
        for part in above:
            parent = _get(parent, part)
        _get(parent, key)
    except (AttributeError, IndexError, TypeError) as error:
        raise UserError(f"the model has no submodule '{name}'") from error
    return parent, key


def _get(parent, key):
    return parent[key] if isinstance(key, int) else getattr(parent, key)


def _set(parent, key, value):
    if isinstance(key, int):
        parent[key] = value
    else:
        setattr(parent, key, value)
