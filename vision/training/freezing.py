"""`config.optimizer.freeze`: parameters that stop learning before the training ends."""

import re
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import optax
from flax import traverse_util

from vision.errors import UserError


def check_freeze(pattern: str, names: Iterable[str]) -> None:
    """Raises `UserError` if a pattern is not valid, or is in no parameter's name.

    Args:
        pattern: config.optimizer.freeze; "" is always right.
        names: of the model's parameters.
    """
    if not pattern:
        return
    names = list(names)
    try:
        matches = [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise UserError(
            f"optimizer.freeze = '{pattern}' is not a regular expression: {error}"
        ) from error
    if not matches:
        raise UserError(
            f"optimizer.freeze = '{pattern}' matches no parameter; there are "
            f"{', '.join(names[:3])}, ..."
        )


def freeze_at(pattern: str, step: int) -> optax.GradientTransformation:
    """Sets the updates of some parameters to zero from a step on: they neither learn nor decay.

    Args:
        pattern: a regular expression, searched in names such as "whiten.bias".
        step: finished steps after which they stay as they are.
    """

    def init(_: Any) -> dict[str, Any]:
        return {"count": jnp.zeros((), jnp.int32)}

    def update(updates: Any, state: dict[str, Any], _: Any = None) -> tuple[Any, dict[str, Any]]:
        flat = traverse_util.flatten_dict(updates)
        for path, value in flat.items():
            # The first part is the objective's attribute, mostly "model".
            if re.search(pattern, ".".join(path[1:])):
                flat[path] = jnp.where(state["count"] < step, value, jnp.zeros_like(value))
        return traverse_util.unflatten_dict(flat), {"count": state["count"] + 1}

    return optax.GradientTransformation(init, update)
