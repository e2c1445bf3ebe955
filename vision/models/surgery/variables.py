"""A model's variables by name, and which of them learn."""

from collections.abc import Callable, Sequence

import numpy as np
from flax import nnx

from vision.models.layers.norms import BatchNorm


class Frozen(nnx.Variable):
    """A parameter that does not learn: it has no gradient and no optimizer state."""


def variables(model: nnx.Module) -> dict[str, nnx.Variable]:
    """Returns {name: variable} of all variables of a model except random streams."""
    state = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    return {".".join(map(str, path)): variable for path, variable in state}


def arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    """Returns {name: NumPy array} of the variables that `variables` returns."""
    return {name: np.asarray(variable.get_value()) for name, variable in variables(model).items()}


def freeze(model: nnx.Module, is_chosen: Callable[[str], bool]) -> None:
    """Freezes every parameter for whose name `is_chosen(name)` is true.

    A `BatchNorm` without a parameter that learns keeps its statistics too: it then normalizes as in
    evaluation.
    """
    for path, module in nnx.iter_modules(model):
        for key, value in list(vars(module).items()):
            if isinstance(value, nnx.Param) and is_chosen(".".join(map(str, (*path, key)))):
                setattr(module, key, Frozen(value.get_value()))
        if isinstance(module, BatchNorm):
            module.frozen = not any(isinstance(value, nnx.Param) for value in vars(module).values())


def can_grow(shape: Sequence[int], larger: Sequence[int]) -> bool:
    """Returns whether the last axis, that of the classes in a head, is all that has to grow."""
    same = len(shape) == len(larger) and tuple(shape[:-1]) == tuple(larger[:-1])
    return same and len(shape) > 0 and shape[-1] < larger[-1]


def count(model: nnx.Module) -> tuple[int, int]:
    """Returns (number of parameters, number of those that learn)."""
    sizes = [
        (isinstance(v, nnx.Param), v.size)
        for v in variables(model).values()
        if isinstance(v, nnx.Param | Frozen)
    ]
    return sum(size for _, size in sizes), sum(size for learns, size in sizes if learns)
