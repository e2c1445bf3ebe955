"""Checks the values of `config.augment` before anything is compiled."""

import math

from vision.errors import UserError


def validate(c):
    """Checks that every value of `config.augment` lies in its range.

    Raises:
      UserError: names the key, its value and the range.
    """
    for name in ("pad_crop", "randaugment_layers"):
        _check(c, name, c[name] >= 0, "a count is 0 or more")
    for name in ("crop_area", "erasing_area"):
        _check(c, name, _rises(c[name]) and c[name][1] <= 1, "shares of the area are (low, high) within (0, 1]")
    for name in ("crop_ratio", "scale"):
        _check(c, name, _rises(c[name]), "factors are (low, high) with 0 < low <= high")
    _check(c, "rotate", 0 <= c.rotate <= 180, "degrees lie in [0, 180]")
    _check(c, "shear", 0 <= c.shear < 45, "degrees lie in [0, 45)")
    _check(c, "translate", 0 <= c.translate <= 1, "a share of the side lies in [0, 1]")
    for name in ("brightness", "contrast", "saturation"):
        _check(c, name, 0 <= c[name] <= 1, "the factor is drawn from [1 - x, 1 + x], so x lies in [0, 1]")
    _check(c, "hue", 0 <= c.hue <= 0.5, "the shift in turns lies in [0, 0.5]")
    _check(c, "randaugment_magnitude", 0 <= c.randaugment_magnitude <= 30, "a magnitude lies in [0, 30]")
    _check(c, "random_erasing", 0 <= c.random_erasing <= 1, "a probability lies in [0, 1]")
    for name in ("mixup", "cutmix"):
        _check(c, name, 0 <= c[name] < math.inf, "alpha is 0 (off) or above")


def _check(c, name, passes, rule):
    if not passes:
        raise UserError(f"augment.{name} = {c[name]}: {rule}")


def _rises(pair):
    return len(pair) == 2 and 0 < pair[0] <= pair[1] < math.inf
