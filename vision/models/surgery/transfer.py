"""`config.transfer`: which parameters of a model learn."""

from flax import nnx
from ml_collections import ConfigDict

from vision.errors import UserError, check_choice
from vision.models import surgery
from vision.models.surgery.low_rank import is_in_head
from vision.support.naming import matching

MODES = ("full", "head", "partial", "lora")


def prepare(c: ConfigDict, model: nnx.Module, rngs: nnx.Rngs) -> dict[str, int]:
    """Freezes the parameters that `config.transfer` excludes, or adds its low-rank updates.

    Changes the model in place.

    Args:
        c: config.transfer.
        model: the model, just built.
        rngs: random streams; `params` is used.

    Returns:
        {name: layer} of all variables, from `surgery.depths`.

    Raises:
        UserError: the mode is unknown, or a choice matches nothing.
    """
    check_choice("transfer.mode", c.mode, MODES)
    if c.cache_embeddings and c.mode != "head":
        raise UserError(
            "transfer.cache_embeddings needs transfer.mode=head: "
            f"with '{c.mode}' the embeddings change"
        )
    if (c.depth or c.trainable) and c.mode != "partial":
        key = "depth" if c.depth else "trainable"
        raise UserError(
            f"transfer.{key} is for transfer.mode=partial, not '{c.mode}': "
            "set the mode, or leave it out"
        )
    layers = surgery.depths(model)
    if c.mode == "head":
        surgery.freeze(model, lambda name: not is_in_head(name))
    elif c.mode == "partial":
        trainable = _trainable_names(c, layers)
        surgery.freeze(model, lambda name: name not in trainable)
    elif c.mode == "lora":
        surgery.add_low_rank(model, c.lora_layers, c.lora_rank, c.lora_alpha, rngs=rngs)
        layers = surgery.depths(model)
    return layers


def _trainable_names(c, layers):
    """Returns the names of the parameters that learn with mode "partial"."""
    if bool(c.depth) == bool(c.trainable):
        raise UserError(
            "transfer.mode = 'partial' needs transfer.depth, the number of last layers, "
            "or transfer.trainable"
        )
    head = {name for name in layers if is_in_head(name)}
    if c.depth:
        return head | _last_layers(c.depth, layers)
    body = [name for name in layers if name not in head]
    return head | matching("transfer.trainable", c.trainable, body, "parameter")


def _last_layers(depth, layers):
    """Returns the names of the variables in the last `depth` layers before the head."""
    last = max(layers.values())
    if depth > last:
        raise UserError(
            f"transfer.depth = {depth}, but there are {last} layers before the head: "
            "choose fewer, or transfer.mode=full"
        )
    return {name for name, layer in layers.items() if last - depth <= layer < last}
