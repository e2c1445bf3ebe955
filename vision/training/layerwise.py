"""`config.transfer`: when each layer begins to learn, and how fast."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from ml_collections import ConfigDict

Path = tuple[str, ...]
MakeOptimizer = Callable[[optax.Schedule, Any], optax.GradientTransformation]


def by_layer(
    c: ConfigDict,
    make: MakeOptimizer,
    schedule: optax.Schedule,
    params: Any,
    layers: Mapping[str, int],
    steps: int,
) -> optax.GradientTransformation:
    """Returns an optimizer whose layers learn at their own rates, from their own step on.

    A layer's rate, and its weight decay with it, is `c.layer_decay` times that of the layer after
    it (Clark et al. 2020, arXiv:2003.10555; BEiT, arXiv:2106.08254). With `c.unfreeze`, the head
    learns from the beginning and the layers before it join one by one, each with fresh moments
    (Howard and Ruder 2018, arXiv:1801.06146, section 3.3).

    Args:
        c: config.transfer.
        make: returns the optimizer of a (schedule, params).
        schedule: from `make_schedule`.
        params: nested dict of arrays, those that learn.
        layers: {name in the model: layer}.
        steps: length of the training.
    """
    last = max(layers.values(), default=0)

    # A path is ("model", "blocks", "0", ...); an objective's own parameters are beside the model,
    # and learn as its head does.
    def layer_of(path: Path) -> int:
        return layers.get(".".join(path[1:]), last) if path[0] == "model" else last

    if c.unfreeze:
        first_steps = {}
        for path in traverse_util.flatten_dict(params):
            depth = last - layer_of(path)
            first_steps[path] = round(c.unfreeze * steps * depth / max(last, 1))
        optimizer = _join(make, schedule, params, first_steps)
    else:
        optimizer = make(schedule, params)
    if c.layer_decay == 1:
        return optimizer
    return optax.chain(optimizer, _scale(lambda path: c.layer_decay ** (last - layer_of(path))))


def _scale(factor: Callable[[Path], float]) -> optax.GradientTransformation:
    """Multiplies each update by its parameter's factor."""

    def update(updates: Any, _: Any) -> Any:
        flat = traverse_util.flatten_dict(updates)
        return traverse_util.unflatten_dict({path: u * factor(path) for path, u in flat.items()})

    return optax.stateless(update)


def _join(
    make: MakeOptimizer, schedule: optax.Schedule, params: Any, first_steps: Mapping[Path, int]
) -> optax.GradientTransformation:
    """Returns one optimizer made of several, one for all parameters that begin at the same step.

    Before its first step, a parameter does not move.
    """
    starts = sorted(set(first_steps.values()))

    def select(tree: Any, start: int) -> Any:
        flat = traverse_util.flatten_dict(tree)
        return traverse_util.unflatten_dict(
            {path: value for path, value in flat.items() if first_steps[path] == start}
        )

    # An optimizer counts from its own start, so that Adam's bias correction is right; the schedule
    # follows the run's steps.
    optimizers = {
        start: make(lambda t, start=start: schedule(t + start), select(params, start))
        for start in starts
    }

    def init(params: Any) -> Any:
        inner = {str(start): optimizers[start].init(select(params, start)) for start in starts}
        return {"inner": inner, "count": jnp.zeros((), jnp.int32)}

    def update(updates: Any, state: Any, params: Any) -> Any:
        inner = {}
        joined: dict[Path, Any] = {}
        for start in starts:
            old = state["inner"][str(start)]
            change, new = optimizers[start].update(
                select(updates, start), old, select(params, start)
            )
            active = state["count"] >= start
            inner[str(start)] = _where(active, new, old)
            change = _where(active, change, jax.tree.map(jnp.zeros_like, change))
            joined |= traverse_util.flatten_dict(change)
        return traverse_util.unflatten_dict(joined), {"inner": inner, "count": state["count"] + 1}

    return optax.GradientTransformation(init, update)


def _where(condition: jax.Array, tree: Any, otherwise: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), tree, otherwise)
