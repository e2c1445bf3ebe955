"""Checks of the options that several architectures share."""

from vision.errors import UserError, check_choice
from vision.models.layers.blocks import REMATS


def check_options(*, dropout=0.0, stochastic_depth=0.0, batch_norm_groups=1, remat="none"):
    """Raises UserError for a value that cannot be, of the options that the architectures share."""
    check_rates(**{"model.dropout": dropout, "model.stochastic_depth": stochastic_depth})
    check_choice("model.remat", remat, REMATS)
    if batch_norm_groups < 1:
        raise UserError(
            f"model.batch_norm_groups = {batch_norm_groups}: it is at least 1, the whole batch"
        )


def check_image_size(name, image_size, smallest):
    """Raises UserError for images that are too small for the architecture of this name."""
    if image_size < smallest:
        raise UserError(
            f"model '{name}' takes images of {smallest} px or more, not {image_size}: set data.image_size"
        )


def check_rates(**rates):
    """Raises UserError for a probability outside [0, 1), by its option's name."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise UserError(f"{name} = {rate} is no probability below 1: choose from 0 to 0.99")
