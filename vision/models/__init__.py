"""Architectures, one file each.

A model is an `nnx.Module` as `Model` describes it.

Explanations and distillation need `features` and `pool`; training works without them. Images are
float (B, H, W, C), already normalized; embeddings and logits are float32 for every compute dtype.
A module sets its attributes in the order in which it uses them: `vision.models.surgery` derives the
depth of each parameter from it.

An architecture's file has

    def build(variant, num_classes, **options) -> "Net":
        return Net(*VARIANTS[variant], num_classes, **options)

whose options are the keyword-only arguments of `Net.__init__`: their names, defaults and docs are
written there and nowhere else. `build` may have keyword arguments of its own, before `**options`.
Of `rngs`, `dtype`, `image_size` and `channels`, which every model is offered, it gets those that it
accepts; every other argument must be one that it accepts. `VARIANTS` lists the variants, `WEIGHTS`
published weights (`vision.models.weights.published`), and `NAMES` how they name our parameters
(`vision.models.weights.names`). A model of more than images has `fields(options)`, see `fields_of`
and `vision.models.fusion`.
"""

import contextlib
import difflib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vision import cpu
from vision.errors import UserError, brief, check_choice, shown
from vision.models.layers.heads import CosineHead, GroupedHead, check_groups
from vision.models.surgery.widths import OPTION, narrow
from vision.support.modules import find

cpu.install()

DTYPES = ("float32", "bfloat16")
HEADS = ("linear", "cosine")
OFFERED = ("rngs", "dtype", "image_size", "channels")  # what every architecture may accept
# keys of config.model that are not options of an architecture
RESERVED = (
    *("name", "variant", "pretrained", "dtype", "options"),
    *("head", "head_scale", "head_groups", "head_shares"),
)


class Model(Protocol):
    """What training, evaluation, explanations and exports need of a model, an `nnx.Module`."""

    # an `nnx.Linear`, or with model.head=cosine a `CosineHead`; with head_groups a `GroupedHead`
    head: Any

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """Returns the intermediate maps in the order of computation.

        Args:
            images: float (B, H, W, C), normalized.

        Returns:
            {"stem", "stages.0", ... or "blocks.0", ...: (B, H, W, C), for a ViT (B, N, D)}; the
            last one is the one that is pooled.
        """

    def pool(self, features: jax.Array) -> jax.Array:
        """Returns the embedding (B, D) of the last map."""

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns the embedding, float32 (B, D): pool(last of features)."""

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the logits, float32 (B, num_classes): head(embed(images))."""


def build(
    c: ConfigDict, num_classes: int, image_size: int, channels: int, rngs: nnx.Rngs
) -> nnx.Module:
    """Builds the model that the config describes.

    Args:
        c: config.model. Keys that are None are left to the architecture's defaults.
        num_classes: length of the logits.
        image_size: side of the images, pixels.
        channels: image channels, 1 or 3.
        rngs: `nnx.Rngs`.

    Raises:
        UserError: unknown model, variant or option, or an option's value that does not fit.
    """
    module = find("model", c.name, __name__)
    check_choice("model.dtype", c.dtype, DTYPES)
    check_choice("model.head", c.head, HEADS)
    check_groups(c.head_groups, c.head_shares, num_classes)
    options = _options(c)
    pruned_shapes = options.pop(OPTION, None)
    _check_options(c.name, options, accepted_options(module.build))
    offered = {
        "rngs": rngs,
        "dtype": jnp.dtype(c.dtype),
        "image_size": image_size,
        "channels": channels,
    }
    arguments = select_accepted(module.build, offered) | options
    outputs = len(c.head_groups) or num_classes
    with _explained(c, options):
        model = module.build(c.variant, outputs, **arguments)
    _set_head(model, c, outputs, rngs)
    if c.head_groups:
        for prefix in getattr(module, "HEADS", ("head.",)):
            _group(model, prefix.rstrip("."), c)
    if pruned_shapes is not None:
        narrow(model, pruned_shapes)
    return model


def build_network(spec: str, num_classes: int, **offered: Any) -> Any:
    """Builds an architecture as a part of another, by NAME:VARIANT and its default options.

    Args:
        spec: such as "resnet:18".
        num_classes: length of the logits.
        offered: as for `build`, of which it gets what it accepts.

    Raises:
        UserError: there is no such architecture or variant, or it does not fit.
    """
    name, _, variant = spec.partition(":")
    module = find("model", name, __name__)
    return module.build(variant, num_classes, **select_accepted(module.build, offered))


def fields_of(c: ConfigDict) -> tuple[str, ...]:
    """Returns the fields of a source that the model of `config.model` takes beside the image.

    With fields, its input is a mapping: {"image": images, field: (B, ...)}.
    """
    module = find("model", c.name, __name__)
    return module.fields(c.options) if hasattr(module, "fields") else ()


def _set_head(model: Any, c: ConfigDict, outputs: int, rngs: nnx.Rngs) -> None:
    """Gives a model the head that the config describes, with a number of outputs."""
    if c.head == "cosine":
        if not isinstance(model.head, nnx.Linear):
            raise UserError(
                f"model.head = 'cosine' cannot replace this model's {type(model.head).__name__}: "
                "set model.head to linear"
            )
        model.head = CosineHead(model.head.in_features, outputs, c.head_scale, rngs=rngs)


def _group(model: nnx.Module, name: str, c: ConfigDict) -> None:
    """Sums the outputs of a head as the config says; an auxiliary head may be missing."""
    *above, last = name.split(".")
    parent: Any = model
    for part in above:
        parent = getattr(parent, part, None)
    if parent is not None:
        head = GroupedHead(getattr(parent, last), c.head_groups, c.head_shares)
        setattr(parent, last, head)


@contextlib.contextmanager
def _explained(c: ConfigDict, options: Mapping[str, Any]) -> Iterator[None]:
    """Turns what an architecture raises for options of the user into a `UserError`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not options:
            raise
        listed = ", ".join(f"{name}={shown(value)}" for name, value in options.items())
        raise UserError(
            f"model '{c.name}' {c.variant} cannot be built with {listed} "
            f"({type(error).__name__}: {brief(error)})"
        ) from error


def accepted_options(build: Callable[..., nnx.Module]) -> tuple[str, ...]:
    """Returns the names of the keyword arguments that an architecture's `build` accepts.

    They are its own, after the variant and the number of classes, and if it takes `**options`, also
    the keyword-only arguments of the class that its result annotation names. Without that
    annotation, `**options` accepts nothing: a misspelled option would pass unnoticed.
    """
    _, _, *parameters = inspect.signature(build).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [p.name for p in parameters if p.kind not in variadic]
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        names += _constructor_options(typing.get_type_hints(build).get("return"))
    return tuple(dict.fromkeys(names))


def select_accepted(
    build: Callable[..., nnx.Module], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns those of the keyword arguments that an architecture's `build` accepts."""
    accepted = accepted_options(build)
    return {name: value for name, value in arguments.items() if name in accepted}


def _constructor_options(model_class: Any) -> Iterator[str]:
    """Yields the keyword-only arguments of a class; with `**options`, also its base class's."""
    for base in getattr(model_class, "__mro__", ()):
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        yield from (p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            return


def _options(c: ConfigDict) -> dict[str, Any]:
    """Returns the options that config.model gives: its keys that are set, and model.options."""
    options = c.options.to_dict()
    reserved = {*OFFERED, *c.keys(), "num_classes"} & options.keys()
    if reserved:
        raise UserError(
            f"model.options cannot contain {', '.join(sorted(reserved))}: "
            f"set model.{min(reserved)} itself"
        )
    keys = {k: v for k, v in c.items() if k not in RESERVED and v is not None}
    return keys | options


def _check_options(name: str, options: Mapping[str, Any], accepted: tuple[str, ...]) -> None:
    """Raises `UserError` for an option that the architecture of this name does not accept."""
    choices = [option for option in accepted if option not in OFFERED]
    for option in options:
        if option not in choices:
            near = difflib.get_close_matches(option, choices, n=1)
            nearest = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(
                f"model '{name}' has no option '{option}'{nearest}; "
                f"its options: {', '.join(choices) or 'none'}.\n"
                "A key of config.model that is None is left to the model's default"
            )
