"""`config.transfer`: which parameters of a model learn."""

import re

from vision.errors import UserError, check_choice
from vision.models import surgery

MODES = ("full", "head", "partial", "lora")


def prepare(c, model, rngs):
    """Freezes what `config.transfer` does not let learn, or adds its low-rank changes. Changes the
    model in place.

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
        raise UserError(
            f"transfer.cache_embeddings needs transfer.mode=head: with '{c.mode}' the embeddings change"
        )
    if (c.depth or c.trainable) and c.mode != "partial":
        key = "depth" if c.depth else "trainable"
        raise UserError(
            f"transfer.{key} is for transfer.mode=partial, not '{c.mode}': set the mode, or leave it out"
        )
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
            raise UserError(
                f"transfer.depth = {c.depth}: there are {last} layers before the head; fewer, or mode=full"
            )
        found = {name for name, layer in layers.items() if last - c.depth <= layer < last}
    else:
        try:
            found = {name for name in layers if re.search(c.trainable, name) and not _of_head(name)}
        except re.error as error:
            raise UserError(
                f"transfer.trainable = '{c.trainable}' is no regular expression: {error}"
            ) from error
        if not found:
            some = ", ".join(list(layers)[:3])
            raise UserError(
                f"transfer.trainable = '{c.trainable}' finds no parameter; there are {some}, ..."
            )
    return found | {name for name in layers if _of_head(name)}


def _of_head(name):
    return name.split(".")[0] == "head"
