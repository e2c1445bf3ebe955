"""`config.transfer`: which parameters learn, from when on, and how fast each layer does."""

import re

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from vision.errors import UserError, check_choice
from vision.models import surgery

MODES = ("full", "head", "partial", "lora")


def prepare(c, model, rngs):
    """Freezes what `config.transfer` does not let learn, or adds its low-rank changes. Changes the model in place.

    Args:
        c: config.transfer.
        model: just built.
        rngs: `nnx.Rngs`.

    Returns:
        {name: layer} of all variables, from `surgery.depths`.

    Raises:
        UserError: an unknown mode, or a choice that finds nothing.
    """
    check_choice("transfer.mode", c.mode, MODES)
    if c.cache_embeddings and c.mode != "head":
        raise UserError(f"transfer.cache_embeddings needs transfer.mode=head: with '{c.mode}' the embeddings change")
    if (c.depth or c.trainable) and c.mode != "partial":
        key = "depth" if c.depth else "trainable"
        raise UserError(f"transfer.{key} is for transfer.mode=partial, not '{c.mode}': set the mode, or leave it out")
    layers = surgery.depths(model)
    if c.mode == "head":
        surgery.freeze(model, lambda name: not _of_head(name))
    elif c.mode == "partial":
        learns = _chosen(c, layers)
        surgery.freeze(model, lambda name: name not in learns)
    elif c.mode == "lora":
        surgery.add_low_rank(model, c.lora_layers, c.lora_rank, c.lora_alpha, rngs=rngs)
        layers = surgery.depths(model)
    return layers


def _chosen(c, layers):
    """Returns the names of the parameters that learn with mode "partial"."""
    if bool(c.depth) == bool(c.trainable):
        raise UserError(
            "transfer.mode = 'partial' needs transfer.depth, the number of last layers, or transfer.trainable"
        )
    last = max(layers.values())
    if c.depth:
        if c.depth >= last + 1:
            raise UserError(f"transfer.depth = {c.depth}: there are {last} layers before the head; fewer, or mode=full")
        found = {name for name, layer in layers.items() if last - c.depth <= layer < last}
    else:
        try:
            found = {name for name in layers if re.search(c.trainable, name) and not _of_head(name)}
        except re.error as error:
            raise UserError(f"transfer.trainable = '{c.trainable}' is no regular expression: {error}") from error
        if not found:
            some = ", ".join(list(layers)[:3])
            raise UserError(f"transfer.trainable = '{c.trainable}' finds no parameter; there are {some}, ...")
    return found | {name for name in layers if _of_head(name)}


def _of_head(name):
    return name.split(".")[0] == "head"


def by_layer(c, make, schedule, params, layers, steps):
    """Builds an optimizer whose layers learn at their own rates, from their own step on.

    A layer's rate is `c.layer_decay` times that of the layer after it (Clark et al. 2020, arXiv:2003.10555; BEiT,
    arXiv:2106.08254), its weight decay with it. With `c.unfreeze`, the head learns from the beginning and the layers
    before it join one by one, each with fresh moments (Howard and Ruder 2018, arXiv:1801.06146, section 3.3).

    Args:
        c: config.transfer.
        make: maps (schedule, params) to an Optax transformation for those parameters.
        schedule: from `make_schedule`.
        params: nested dict of arrays, those that learn.
        layers: {name in the model: layer}.
        steps: length of the training.
    """
    last = max(layers.values(), default=0)

    def layer_of(path):  # path: ("model", "blocks", "0", ...); an objective's own parameters are beside the model
        return layers.get(".".join(path[1:]), last)

    paths = traverse_util.flatten_dict(params)
    if not c.unfreeze:
        whole = make(schedule, params)
    else:
        start = {layer: round(c.unfreeze * steps * (last - layer) / max(last, 1)) for layer in map(layer_of, paths)}
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
        return traverse_util.unflatten_dict({path: flat[path] for path in flat if start[path] == first})

    firsts = sorted(set(start.values()))
    # Its own count begins with it, so that Adam's bias correction is right; the schedule's goes by the run's steps.
    optimizers = {first: make(lambda t, first=first: schedule(t + first), part(params, first)) for first in firsts}

    def init(params):
        inner = {str(first): optimizers[first].init(part(params, first)) for first in firsts}
        return {"inner": inner, "count": jnp.zeros((), jnp.int32)}

    def update(updates, state, params):
        inner, moved = {}, {}
        for first in firsts:
            old = state["inner"][str(first)]
            change, new = optimizers[first].update(part(updates, first), old, part(params, first))
            active = state["count"] >= first
            keep = lambda a, b, active=active: jnp.where(active, a, b)  # noqa: E731
            inner[str(first)] = jax.tree.map(keep, new, old)
            moved |= traverse_util.flatten_dict(jax.tree.map(lambda u, k=keep: k(u, jnp.zeros_like(u)), change))
        return traverse_util.unflatten_dict(moved), {"inner": inner, "count": state["count"] + 1}

    return optax.GradientTransformation(init, update)
