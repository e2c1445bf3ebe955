"""How much each weight matters to what a model has learned, and a penalty for moving it.

Both ways of measuring that end in the same file, `importance/KIND.safetensors` of a run: for each
parameter NAME, "importance.NAME" and "anchor.NAME", the value that it should stay near to.
"""

import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.models.surgery import variables

FOLDER = "importance"  # in a run directory
KINDS = ("fisher", "si")
IMPORTANCE = "importance."  # what the arrays' names begin with
ANCHOR = "anchor."


def importance_file(run: str, kind: str) -> str:
    """Returns the file of a run that says how much each weight matters.

    Args:
        run: the run directory.
        kind: of `KINDS`.
    """
    return str(pathlib.Path(run, FOLDER, f"{kind}.safetensors"))


def parameters(model: nnx.Module) -> dict[str, nnx.Variable]:
    """Returns {name: parameter} of a model."""
    return {n: v for n, v in variables(model).items() if isinstance(v, nnx.Param)}


class Quadratic(nnx.Module):
    """sum_i importance_i (theta_i - anchor_i)^2 over the parameters of a model.

    Kirkpatrick et al. 2017 (arXiv:1612.00796), eq. 3, and Zenke et al. 2017 (arXiv:1703.04200),
    eq. 4, without their factors. Parameters of classes that came later have no importance.

    Args:
        model: the model whose parameters may move.
    """

    def __init__(self, model: nnx.Module):
        self.importance = _zeros(model)
        self.anchor = _zeros(model)

    def __call__(self, model: nnx.Module) -> jax.Array:
        """Returns the sum for a model, a scalar."""
        total = jnp.zeros(())
        for name, parameter in parameters(model).items():
            value = parameter.get_value()
            distance = value - self.anchor[name].get_value().astype(value.dtype)
            total += (self.importance[name].get_value() * jnp.square(distance)).sum()
        return total


class PathIntegral(nnx.Module):
    """What each weight has contributed to the fall of the loss: -sum over steps of gradient x move.

    Zenke et al. 2017 (arXiv:1703.04200), eq. 3, where it is omega.

    Args:
        model: the model that learns.
    """

    def __init__(self, model: nnx.Module):
        self.sum = _zeros(model)

    def add(self, before: nnx.Module, after: nnx.Module, gradient: Mapping[str, jax.Array]) -> None:
        """Adds a step.

        Args:
            before: the model before it.
            after: the model after it.
            gradient: {name of a parameter: gradient} at `before`.
        """
        moved = parameters(after)
        for name, parameter in parameters(before).items():
            move = moved[name].get_value() - parameter.get_value()
            self.sum[name][...] -= gradient[name] * move


def path_importance(
    total: np.ndarray, start: np.ndarray, end: np.ndarray, damping: float
) -> np.ndarray:
    """Returns omega / ((theta_end - theta_start)^2 + xi): Zenke et al. 2017, eq. 5.

    Args:
        total: omega of a parameter, of any shape.
        start: its value before the training, of that shape.
        end: its value afterwards.
        damping: xi, above 0.
    """
    return total / (np.square(end - start) + damping)


def combine(
    old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], decay: float, anchors: str
) -> dict[str, np.ndarray]:
    """Joins the importance for earlier tasks with that for the latest one.

    Args:
        old: arrays of the file of the run before, "importance.NAME" and "anchor.NAME"; parameters
            may be smaller, as the head is for fewer classes. {} if there is none.
        new: those of the latest task.
        decay: the share of the old importance that stays; 1 = all.
        anchors: "latest", the weights after the latest task, as online EWC and SI have it; "each",
            the mean of the tasks' own by importance: the sum of their quadratics has its minimum
            there, so this is EWC with a penalty for each task.

    Returns:
        As `new`.
    """
    joined = dict(new)
    for key, array in new.items():
        if not key.startswith(IMPORTANCE) or key not in old:
            continue
        anchor_key = ANCHOR + key.removeprefix(IMPORTANCE)
        earlier = decay * _padded(old[key], array.shape)
        total = earlier + array
        joined[key] = total.astype(array.dtype)
        if anchors == "each":
            weighted = earlier * _padded(old[anchor_key], array.shape) + array * new[anchor_key]
            mean = np.divide(weighted, total, out=np.array(new[anchor_key]), where=total != 0)
            joined[anchor_key] = mean.astype(array.dtype)
    return joined


def _padded(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    padded = np.zeros(shape, array.dtype)
    padded[tuple(map(slice, array.shape))] = array
    return padded


def _zeros(model: nnx.Module) -> nnx.Dict:
    return nnx.Dict(
        {
            name: nnx.Variable(jnp.zeros(p.shape, jnp.float32))
            for name, p in parameters(model).items()
        }
    )
