"""The outputs of a model's head: which variables have one number for each, and how they grow.

A head has an output for each class, or with `config.model.head_groups` several for some classes.
"""

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from vision.errors import UserError
from vision.models.surgery.widths import OPTION, as_option, of_option
from vision.models.weights import pretrained
from vision.run.weights import abstract_model

INNER = "inner."  # of a `GroupedHead`


def output_axes(c: ConfigDict, num_classes: int, image_size: int, channels: int) -> dict[str, int]:
    """Returns {name: axis} of the variables with a number for each output of the head.

    Args:
        c: config.model. The names are those of a model without `head_groups`.
        num_classes, image_size, channels: as for `vision.models.build`.

    Raises:
        UserError: the model has no head with one output per class.
    """
    plain = c.copy_and_resolve_references()
    plain.head_groups = ()
    plain.head_shares = ()
    if OPTION in plain.options:
        del plain.options[OPTION]
    count = len(c.head_groups) or num_classes
    shapes = pretrained.shapes(abstract_model(plain, count, image_size, channels))
    larger = pretrained.shapes(abstract_model(plain, count + 1, image_size, channels))
    prefixes = pretrained.heads(pretrained.architecture(c))
    axes = {}
    for name, shape in shapes.items():
        grown = [axis for axis, length in enumerate(shape) if larger[name][axis] != length]
        if not grown:
            continue
        (axis, *more) = grown
        if more or shape[axis] != count or not name.startswith(prefixes):
            raise UserError(
                f"the classes of this run cannot change: {name} depends on their number, "
                "but is not a head with one output per class"
            )
        axes[name] = axis
    if not axes:
        raise UserError(
            "this run's model has no class head: none of its variables depends on the number of "
            "classes"
        )
    return axes


def with_outputs(c: ConfigDict, num_classes: int, image_size: int, channels: int) -> ConfigDict:
    """Returns `config.model` for a number of classes, of which those behind the old ones are new.

    A new class gets an output of its own, behind all others, so that the weights of the old ones
    fill the first places of the head. What has enough outputs already comes back as it is.

    Args:
        c: config.model, whose `head_groups`, `head_shares` and `options.pruned` may be for fewer
            classes.
        num_classes, image_size, channels: as for `vision.models.build`.

    Raises:
        UserError: the model is pruned and has no head with one output per class.
    """
    c = c.copy_and_resolve_references()
    if c.head_groups:
        new = range(max(c.head_groups) + 1, num_classes)
        if c.head_shares:
            c.head_shares = (*c.head_shares, *[1.0] * len(new))
        c.head_groups = (*c.head_groups, *new)
    if OPTION in c.options:
        names = HeadNames.from_config(c)
        axes = output_axes(c, num_classes, image_size, channels)
        shapes = of_option(c.options[OPTION].to_dict())
        count = len(c.head_groups) or num_classes
        c.options[OPTION] = as_option(
            {
                name: _with_length(shape, axes.get(names.plain(name)), count)
                for name, shape in shapes.items()
            }
        )
    return c


def _with_length(shape: Sequence[int], axis: int | None, length: int) -> list[int]:
    """Returns a shape with another length of an axis, if there is one."""
    return [length if place == axis else size for place, size in enumerate(shape)]


@dataclasses.dataclass(frozen=True)
class HeadNames:
    """The names of a head's variables without and with a `GroupedHead` around it.

    Attributes:
        prefixes: of the variables of heads.
        has_groups: whether the names are those with it.
    """

    prefixes: tuple[str, ...]
    has_groups: bool

    @classmethod
    def from_config(cls, c: ConfigDict) -> "HeadNames":
        """Returns the names in the model of `config.model`."""
        return cls(pretrained.heads(pretrained.architecture(c)), bool(c.head_groups))

    def plain(self, name: str) -> str:
        """Returns the name that one of this model's variables has without a `GroupedHead`."""
        for prefix in self.prefixes:
            if name.startswith(prefix + INNER):
                return name.replace(INNER, "", 1) if self.has_groups else name
        return name

    def inner(self, plain: str) -> str:
        """Returns the name with a `GroupedHead` of a variable that has this one without."""
        for prefix in self.prefixes:
            if plain.startswith(prefix):
                return f"{prefix}{INNER}{plain.removeprefix(prefix)}"
        return plain
