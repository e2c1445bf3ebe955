"""`config.transfer`: from when on, and how fast, each layer learns."""

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util


def by_layer(c, make, schedule, params, layers, steps):
    """Builds an optimizer whose layers learn at their own rates, from their own step on.

    A layer's rate is `c.layer_decay` times that of the layer after it (Clark et al. 2020,
    arXiv:2003.10555; BEiT, arXiv:2106.08254), its weight decay with it. With `c.unfreeze`, the head
    learns from the beginning and the layers before it join one by one, each with fresh moments
    (Howard and Ruder 2018, arXiv:1801.06146, section 3.3).

    Args:
        c: config.transfer.
        make: maps (schedule, params) to an Optax transformation for those parameters.
        schedule: from `make_schedule`.
        params: nested dict of arrays, those that learn.
        layers: {name in the model: layer}.
        steps: length of the training.
    """
    last = max(layers.values(), default=0)

    # path: ("model", "blocks", "0", ...); an objective's own parameters are beside the model
    def layer_of(path):
        return layers.get(".".join(path[1:]), last)

    paths = traverse_util.flatten_dict(params)
    if not c.unfreeze:
        whole = make(schedule, params)
    else:
        start = {
            layer: round(c.unfreeze * steps * (last - layer) / max(last, 1))
            for layer in map(layer_of, paths)
        }
        whole = _joining(make, schedule, params, {path: start[layer_of(path)] for path in paths})
    if c.layer_decay == 1:
        return whole
    return optax.chain(whole, _scale(lambda path: c.layer_decay ** (last - layer_of(path))))


def _scale(factor):
    def update(updates, _):
        flat = traverse_util.flatten_dict(updates)
        return traverse_util.unflatten_dict({path: u * factor(path) for path, u in flat.items()})

    return optax.stateless(update)


def _joining(make, schedule, params, start):
    """One optimizer for all parameters that begin at the same step; before it, it does not move."""

    def part(tree, first):
        flat = traverse_util.flatten_dict(tree)
        return traverse_util.unflatten_dict(
            {path: flat[path] for path in flat if start[path] == first}
        )

    firsts = sorted(set(start.values()))
    # Its own count begins with it, so that Adam's bias correction is right; the schedule's goes by
    # the run's steps.
    optimizers = {
        first: make(lambda t, first=first: schedule(t + first), part(params, first))
        for first in firsts
    }

    def init(params):
        inner = {str(first): optimizers[first].init(part(params, first)) for first in firsts}
        return {"inner": inner, "count": jnp.zeros((), jnp.int32)}

    def update(updates, state, params):
        inner = {}
        moved = {}
        for first in firsts:
            old = state["inner"][str(first)]
            change, new = optimizers[first].update(part(updates, first), old, part(params, first))
            active = state["count"] >= first
            keep = lambda a, b, active=active: jnp.where(active, a, b)  # noqa: E731
            inner[str(first)] = jax.tree.map(keep, new, old)
            moved |= traverse_util.flatten_dict(
                jax.tree.map(lambda u, k=keep: k(u, jnp.zeros_like(u)), change)
            )
        return traverse_util.unflatten_dict(moved), {"inner": inner, "count": state["count"] + 1}

    return optax.GradientTransformation(init, update)
