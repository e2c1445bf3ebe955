"""Rebuilds a model that has fewer channels than its variant: `config.model.options.pruned`.

The option is a tree like the model, with the shapes of all variables that were cut: {"stem":
{"conv": {"kernel": [3, 3, 3, 20]}}}. Modules compute with the shapes of their variables; Flax's own
also store numbers of channels, which are set here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx, traverse_util

from vision.errors import UserError
from vision.models import surgery

OPTION = "pruned"  # in config.model.options; no architecture's `build` gets it


def as_option(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Returns the value of the option for {name of a cut variable: its shape}."""
    lists = {name: list(shape) for name, shape in shapes.items()}
    return traverse_util.unflatten_dict(lists, sep=".")


def of_option(option: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns {name: shape}, the inverse of `as_option`."""
    flat = traverse_util.flatten_dict(option, sep=".")
    return {name: tuple(shape) for name, shape in flat.items()}


def narrow(model: nnx.Module, option: Mapping[str, Any]) -> None:
    """Cuts a model's variables in place to the shapes that `as_option` took.

    The first channels stay. The model may be abstract.

    Raises:
        UserError: a variable is missing, or already has fewer channels.
    """
    variables = surgery.variables(model)
    for name, shape in of_option(option).items():
        variable = variables.get(name)
        if variable is None or not _can_cut(variable.shape, shape):
            ours = "has none" if variable is None else f"has {tuple(variable.shape)}"
            raise UserError(
                f"model.options.{OPTION}: {name} is {shape} there, but the model {ours}: "
                "use the name, variant and options of the run that was pruned"
            )
        variable.set_value(variable.get_value()[tuple(map(slice, shape))])
    for _, module in nnx.iter_modules(model):
        _update_channel_counts(module)


def _can_cut(shape, cut_shape):
    return len(shape) == len(cut_shape) and all(
        length >= cut for length, cut in zip(shape, cut_shape, strict=True)
    )


def _update_channel_counts(module):
    """Sets the numbers of channels that a Flax module stores, from its kernel's last two axes."""
    if isinstance(module, nnx.Conv):
        *_, inputs, outputs = module.kernel.shape
        if module.feature_group_count > 1:  # entire groups were cut
            module.feature_group_count = outputs * module.feature_group_count // module.out_features
        module.in_features = inputs * module.feature_group_count
        module.out_features = outputs
        module.kernel_shape = module.kernel.shape
    elif isinstance(module, nnx.BatchNorm):
        module.num_features = module.mean.shape[0]
    elif hasattr(module, "in_features") and hasattr(module, "kernel"):
        module.in_features, module.out_features = module.kernel.shape
