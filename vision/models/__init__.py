"""Architectures, one file each.

A model is an `nnx.Module` with

    features(images) -> {name: map}   intermediate maps, in the order of computation: (B, H, W, C),
                                      of a ViT (B, N, D). "stem", "stages.0", ... or "blocks.0",
                                      ...; the last one is what is pooled
    pool(map) -> (B, D)               what makes the embedding of the last map
    embed(images) -> (B, D)           the embedding: pool(last of features)
    head                              an `nnx.Linear`, or with model.head=cosine a `CosineHead`
    __call__(images)                  head(embed(images)) -> logits (B, num_classes)

`features` and `pool` are what explanations and distillation need; training gets by without. Images
are float (B, H, W, C), already normalized; embeddings and logits are float32 whatever the compute
dtype. A module sets its attributes in the order in which it uses them, from which
`vision.models.surgery` knows the depth of each parameter.

Its file has `build(variant, num_classes, *, rngs, dtype, image_size, channels, ...)`, whose further
keyword arguments are its options, and `VARIANTS`, which its message about an unknown variant lists.
`WEIGHTS` names published weights (`vision.models.weights.published`), `NAMES` says how they call
ours (`vision.models.weights.names`).
"""

import inspect

import jax.numpy as jnp
from flax import nnx

from vision.errors import UserError, check_choice
from vision.models.layers.heads import CosineHead
from vision.models.surgery.widths import OPTION, narrow
from vision.support.modules import find

DTYPES = ("float32", "bfloat16")
HEADS = ("linear", "cosine")
APART = (
    "name",
    "variant",
    "pretrained",
    "dtype",
    "head",
    "head_scale",
    "options",
)  # keys of config.model that are no options of `build`


def build(c, num_classes, image_size, channels, rngs):
    """Builds the model that the config describes.

    Args:
        c: config.model. Of its keys, those at None are left to the architecture's defaults.
        num_classes: length of the logits.
        image_size: side of the images, pixels.
        channels: of the images, 1 or 3.
        rngs: `nnx.Rngs`.

    Raises:
        UserError: no such model, variant or option, or a value that does not fit.
    """
    module = find("model", c.name, __name__)
    check_choice("model.dtype", c.dtype, DTYPES)
    given = {
        "rngs": rngs,
        "dtype": jnp.dtype(c.dtype),
        "image_size": image_size,
        "channels": channels,
    }
    keys = {k: v for k, v in c.items() if k not in APART and v is not None}
    options = c.options.to_dict()
    pruned = options.pop(OPTION, None)
    taken = {*given, *c.keys(), "num_classes"} & options.keys()
    if taken:
        raise UserError(
            f"model.options cannot hold {', '.join(sorted(taken))}: set model.{min(taken)} itself"
        )
    arguments = given | keys | options
    _check_known(c.name, module.build, arguments, given)
    check_choice("model.head", c.head, HEADS)
    model = module.build(c.variant, num_classes, **arguments)
    if c.head == "cosine":
        if not isinstance(model.head, nnx.Linear):
            raise UserError(
                f"model.head = 'cosine' cannot stand for the {type(model.head).__name__} of this model"
            )
        model.head = CosineHead(model.head.in_features, num_classes, c.head_scale, rngs=rngs)
    if pruned is not None:
        narrow(model, pruned)
    return model


def _check_known(name, function, arguments, given):
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY or p.name in arguments]
    unknown = [a for a in arguments if a not in known]
    if unknown:
        takes = ", ".join(k for k in known if k not in given) or "none"
        raise UserError(
            f"model '{name}' has no option {', '.join(map(repr, unknown))}; its options: {takes}.\n"
            "Keys of config.model that are None are left out"
        )
