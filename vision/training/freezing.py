"""`config.optimizer.freeze`: parameters that stop learning before the training ends."""

import re
from typing import Any

import jax.numpy as jnp
import optax
from flax import traverse_util


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
