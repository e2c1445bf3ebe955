"""What an objective may declare, and what the trainer makes of it.

In an objective's file, everything but `build` is optional:

    OPTIONS = {"threshold": 0.95}         config.objective.options.NAME, with defaults: names and
                                          types are checked
    USES = ("label_smoothing",)           keys of config.objective that it takes besides; setting
                                          another one is an error. Without it, all may be set
    INPUTS = {"train": ("image",), "unlabeled": ("weak", "strong")}
                                          {loader: views of its images}; a view is augmented as
                                          config.augment says, one named "strong" as config.strong
    MEASURES = ("knn",)                   names of the numbers that `validate` returns; "val/knn"
                                          may then be checkpoint.metric; {"knn": "max"} also says
                                          whether "max" or "min" is better, which otherwise
                                          follows from the name: less of a "loss" or an "error"
    FIELDS = True                         whether its model may take more than images, see below
    def starts(c, previous): ...          {attribute: what its variables start from}, see
                                          `Definition.starts`; previous, which it may leave out, is
                                          config.continual.previous
    def validate(embed, loaders): ...     {"knn": float}, from embed(loader), which returns
                                          (embeddings float32 (N, D), labels int (N,)) of the
                                          images that can be read. If it names `encode` too, it
                                          gets encode(loader): {name: (N, ...)}, what the
                                          objective's encode(batch) returns of them in evaluation
    def read_start(c, attribute, start, text): ...
                                          {name: array}, if a start may be a file of others
    def doubts(classes, class_counts): ...
                                          lines, printed as notes when a training begins, on what
                                          these training images may not be enough for
    def build(c, model, *, ...): ...      the objective; it takes what it names of rngs,
                                          architectures and the attributes of `Facts`

A batch is {"image": ..., "label": ..., "progress": ...}: under the names of the views of "train",
normalized float (B, H, W, C); soft labels, float (B, C); the share of the training that is done,
float32 (). The view of a model of more than images is a mapping, see `vision.models.fields_of`,
which the objective passes on as it is. Further fields of the source come under their own names, and
the views of every other loader under its name: batch["unlabeled"]["weak"];
batch["unlabeled"]["index"], int32 (B,), says which of that loader's images they are. Those of
"memory", what is remembered of a previous run's images, have a "label" too; without
config.continual.memory there are none in the batch.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision.config.options import complete
from vision.config.schema.model import OBJECTIVE
from vision.data.pipeline import UNLABELED
from vision.data.recall import MEMORY
from vision.data.tokenizer import TextShape
from vision.errors import UserError, check_choice
from vision.objectives.quantized import simulate
from vision.run.best import DIRECTIONS
from vision.support.modules import find

PACKAGE = "vision.objectives"
TRAIN = "train"
LOADERS = (TRAIN, UNLABELED, MEMORY)
RESERVED = ("label", "index", "mask", "progress")  # names that every batch uses itself
GENERAL = ("name", "options", "quantize")  # keys of config.objective that all objectives have
COPY = "model"  # what an attribute starts from: the objective's own model


@runtime_checkable
class Objective(Protocol):
    """What the trainer needs of an objective, an `nnx.Module`.

    Optional attributes of its class:
        frozen: names of attributes without gradients and optimizer state, which always stay in
            evaluation mode: a teacher, a momentum encoder.
        constant: names of frozen attributes that never change, such as a teacher. Checkpoints leave
            them out; the run directory keeps one copy of what they start from, with its SHA-256.
        players: {player: names of the attributes that it updates}: in each step every player in
            turn takes the gradient of `loss(batch, player)` and has an optimizer state of its own.
        whole_batch: True if the loss compares the images of a batch, so that the batch cannot be
            cut by `train.accumulate`.

    Optional methods:
        after_update(): called after each optimizer step, to change what does not learn. If it has
            the parameter `gradients`, it gets {attribute: gradients of its parameters, as nested
            dicts} of that step.
        encode(batch): returns {name: (B, ...)} of {"image": normalized images} and the source's
            fields, for `validate`.
    """

    model: Any  # is validated, exported and served

    def loss(self, batch: dict[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns (scalar, {name: scalar}); with players it takes the player as well."""


@dataclasses.dataclass(frozen=True)
class ImageForm:
    """What the images of a batch are like, for objectives that make images.

    Attributes:
        shape: (H, W, C).
        black: the normalized value of a pixel of 0, C numbers.
        white: that of a pixel of 255.
    """

    shape: tuple[int, int, int]
    black: tuple[float, ...]
    white: tuple[float, ...]

    def to_symmetric(self, images: jax.Array) -> jax.Array:
        """Returns normalized images (..., C) with -1 for black and 1 for white."""
        black = jnp.array(self.black, images.dtype)
        white = jnp.array(self.white, images.dtype)
        return (2 * images - black - white) / (white - black)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What an objective may know of its data.

    Attributes:
        class_counts: int (C,), training images of each class.
        classes: C class names, in the labels' order.
        sizes: {loader: images of its split}; {} if there are no data.
        tasks: see `vision.data.pipeline.Data`.
        images: what the images of a batch are like; None if there are no data.
        text: the shape of the captions' tokens, batch["text"]; None if there are none.
    """

    class_counts: np.ndarray
    classes: tuple[str, ...] = ()
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    tasks: Sequence[Any] = ()
    images: ImageForm | None = None
    text: TextShape | None = None


@dataclasses.dataclass(frozen=True)
class Definition:
    """What an objective's file declares.

    Attributes:
        name: config.objective.name.
        config: config.objective, its options complete.
        inputs: {loader: names of the views of its images}.
        measures: names of the numbers that `validate` returns.
        directions: {measure: "max" or "min"}, whichever is better, of those that declare it.
        starts: {attribute: "model", a trained model or a .safetensors file}: what the attribute's
            variables start from. "model" copies the objective's own model, after that has its
            pretrained weights; a trained model is what `vision.run.teacher.Teacher.spec` says.
        validate: see above; None if the file has none.
        module: the file.
    """

    name: str
    config: ConfigDict
    inputs: Mapping[str, tuple[str, ...]]
    measures: tuple[str, ...]
    directions: Mapping[str, str]
    starts: Mapping[str, str]
    validate: Callable[..., dict[str, float]] | None
    module: ModuleType

    def build(
        self,
        model: nnx.Module,
        *,
        rngs: nnx.Rngs,
        architectures: Mapping[str, nnx.Module],
        **facts: Any,
    ) -> Any:
        """Builds the objective, whose model computes as `quantize` asks for.

        Args:
            model: the model that learns.
            rngs: where its own parameters draw from.
            architectures: {attribute: model without weights} for each start from a trained model,
                with {attribute: class names} as `architectures.classes`, and {attribute: (H, W,
                C)} of the images that they see as `architectures.image_shapes`.
            facts: attributes of `Facts`.

        Raises:
            UserError: see `vision.objectives.quantized.simulate`, and the objective's own.
        """
        simulate(model, self.config.quantize)
        offered = vars(Facts(**facts)) | {"rngs": rngs, "architectures": architectures}
        parameters = inspect.signature(self.module.build).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        accepted = {k: v for k, v in offered.items() if takes_all or k in parameters}
        return self.module.build(self.config, model, **accepted)

    def doubts(self, classes: Sequence[str], class_counts: np.ndarray) -> list[str]:
        """Returns the lines of `doubts`, [] if there is none.

        Args:
            classes: C class names.
            class_counts: int (C,), training images of each class.
        """
        own = getattr(self.module, "doubts", None)
        return list(own(classes, class_counts)) if own else []

    def measure(
        self,
        loaders: Mapping[str, Any],
        embed: Callable[[Any], Any],
        encode: Callable[[Any], dict[str, np.ndarray]],
    ) -> dict[str, float]:
        """Returns the numbers of `validate`, {} if there is none.

        Args:
            loaders: {split: loader}.
            embed: see the top of the file.
            encode: see the top of the file.

        Raises:
            UserError: it returns others than `measures`.
        """
        if self.validate is None:
            return {}
        names = inspect.signature(self.validate).parameters
        more = {"encode": encode} if "encode" in names else {}
        own = self.validate(embed, loaders, **more)
        if set(self.measures) ^ set(own):
            raise UserError(
                f"validate of the objective '{self.name}' must return its MEASURES "
                f"({', '.join(self.measures)}), got {', '.join(own)}"
            )
        return own


def define(c: ConfigDict, previous: str = "") -> Definition:
    """Reads what the file of `config.objective` declares.

    Args:
        c: config.objective.
        previous: config.continual.previous.

    Raises:
        UserError: there is no such objective, an option is unknown or has another type, or a key is
            set that the objective does not use.
    """
    module = find("objective", c.name, PACKAGE)
    config = c.copy_and_resolve_references()
    with config.options.unlocked():
        config.options = ConfigDict(
            complete(
                "objective.options",
                f"the objective '{c.name}'",
                c.options,
                getattr(module, "OPTIONS", {}),
            )
        )
    _check_unused(c, getattr(module, "USES", None))
    inputs = getattr(module, "INPUTS", {TRAIN: ("image",)})
    _check_inputs(c.name, inputs)
    measures = getattr(module, "MEASURES", ())
    validate = getattr(module, "validate", None)
    directions = measures if isinstance(measures, dict) else {}
    measures = tuple(measures) if directions else measures
    if not _are_names(measures) or bool(measures) != (validate is not None):
        raise UserError(
            f"MEASURES of the objective '{c.name}' must be a tuple of the names that its "
            f"validate returns, and () without validate; got {measures!r}"
        )
    for measure, direction in directions.items():
        check_choice(f"MEASURES of the objective '{c.name}': {measure}", direction, DIRECTIONS)
    return Definition(
        name=c.name,
        config=config,
        inputs=inputs,
        measures=measures,
        directions=directions,
        starts=_starts(module, config, previous),
        validate=validate,
        module=module,
    )


def _starts(module: ModuleType, c: ConfigDict, previous: str) -> dict[str, str]:
    if not hasattr(module, "starts"):
        return {}
    takes_previous = "previous" in inspect.signature(module.starts).parameters
    starts = module.starts(c, previous) if takes_previous else module.starts(c)
    return {attribute: str(start) for attribute, start in starts.items() if start}


def _check_unused(c: ConfigDict, uses: tuple[str, ...] | None) -> None:
    if uses is None:
        return
    for name, key in OBJECTIVE.keys.items():
        if name not in (*uses, *GENERAL) and c[name] != key.default:
            raise UserError(
                f"objective.{name} = {c[name]!r} has no effect on the objective '{c.name}': leave "
                f"it at {key.default!r}"
            )


def _check_inputs(name: str, inputs: Mapping[str, tuple[str, ...]]) -> None:
    for loader in inputs:
        check_choice(f"INPUTS of the objective '{name}'", loader, LOADERS)
    if TRAIN not in inputs or not all(_are_names(views) and views for views in inputs.values()):
        raise UserError(
            f"INPUTS of the objective '{name}' must name a tuple of views for '{TRAIN}', and for "
            f"every other loader that it lists; got {dict(inputs)}"
        )
    taken = {view for views in inputs.values() for view in views} & {*RESERVED, *LOADERS}
    if taken:
        raise UserError(
            f"INPUTS of the objective '{name}' has a view '{min(taken)}', a reserved name: "
            "rename it"
        )


def _are_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(name, str) for name in value)
