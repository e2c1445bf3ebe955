"""A model with fewer channels than its variant has: what `config.model.options.pruned` stores, and
its rebuilding.

That is a tree as the model is one, of the shapes of all variables that were cut: {"stem": {"conv":
{"kernel": [3, 3, 3, 20]}}}. Modules compute with whatever their variables' shapes are; those of
Flax also keep numbers of channels, which are set here.
"""

from flax import nnx, traverse_util

from vision.errors import UserError
from vision.models import surgery

OPTION = "pruned"  # of config.model.options; no architecture's `build` sees it


def as_option(shapes):
    """Returns the option's value, of {name of a variable that is cut: its shape}."""
    return traverse_util.unflatten_dict(
        {name: list(shape) for name, shape in shapes.items()}, sep="."
    )


def of_option(option):
    """Returns {name: shape}, the inverse of `as_option`."""
    return {
        name: tuple(shape) for name, shape in traverse_util.flatten_dict(option, sep=".").items()
    }


def narrow(model, option):
    """Cuts a model's variables in place to the shapes that `as_option` gave, abstract or not: the
    first channels stay.

    Raises:
        UserError: a variable is not there, or has fewer channels already.
    """
    variables = surgery.names(model)
    for name, shape in of_option(option).items():
        variable = variables.get(name)
        fits = variable is not None and len(variable.shape) == len(shape)
        if not fits or any(ours < cut for ours, cut in zip(variable.shape, shape, strict=True)):
            has = "has none" if variable is None else f"has {tuple(variable.shape)}"
            raise UserError(
                f"model.options.{OPTION}: {name} is {shape} there, the model {has}: use the name, variant and "
                "options of the run that was pruned"
            )
        variable.set_value(variable.get_value()[tuple(map(slice, shape))])
    for _, module in nnx.iter_modules(model):
        _count_channels(module)


def _count_channels(module):
    """Sets what a module of Flax keeps of its channels, of which the first and the last axis of a
    kernel tell."""
    if isinstance(module, nnx.Conv):
        *_, inputs, outputs = module.kernel.shape
        if module.feature_group_count > 1:  # whole groups were cut
            module.feature_group_count = outputs * module.feature_group_count // module.out_features
        module.in_features = inputs * module.feature_group_count
        module.out_features = outputs
        module.kernel_shape = module.kernel.shape
    elif isinstance(module, nnx.BatchNorm):
        module.num_features = module.mean.shape[0]
    elif hasattr(module, "in_features") and hasattr(module, "kernel"):
        module.in_features, module.out_features = module.kernel.shape
