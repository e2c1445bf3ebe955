"""Checks of the options that several architectures share."""

from vision.errors import UserError, check_choice, check_range
from vision.models.layers.blocks import REMATS


def check_options(
    *,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    batch_norm_groups: int = 1,
    remat: str = "none",
) -> None:
    """Checks the values of options that the architectures share.

    Raises:
        UserError: a value is out of range.
    """
    check_rates(**{"model.dropout": dropout, "model.stochastic_depth": stochastic_depth})
    check_choice("model.remat", remat, REMATS)
    rule = "at least 1, which is the entire batch"
    check_range("model.batch_norm_groups", batch_norm_groups, batch_norm_groups >= 1, rule)


def check_image_size(name: str, image_size: int, smallest: int) -> None:
    """Checks that images are large enough for the architecture `name`.

    Raises:
        UserError: `image_size` is below `smallest`, pixels.
    """
    if image_size < smallest:
        raise UserError(
            f"model '{name}' takes images of {smallest} px or more, not {image_size}: "
            "set data.image_size"
        )


def check_rates(**rates: float) -> None:
    """Checks that each probability, by its option's name, is in [0, 1).

    Raises:
        UserError: one is not.
    """
    for name, rate in rates.items():
        check_range(name, rate, 0 <= rate < 1, "in [0, 1)")
