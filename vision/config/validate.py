"""Checks of the numbers in a config, made before anything is opened or written.

What depends on the data or the devices, such as whether a batch divides over them, is checked where
those are known.
"""

import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from vision.config.schema import OPTION_GROUPS, all_keys
from vision.errors import UserError, check_range

LARGEST_INTEGER = 2**31 - 1
LARGEST_FLOAT = 3.4e38


def validate(config: ConfigDict) -> None:
    """Checks every number in a config.

    Raises:
        UserError: if a number is out of its range; names the key, its value and the range.
    """
    values = dict(leaves(config))
    for name, key in all_keys().items():
        if name not in OPTION_GROUPS:
            _check_kind(name, values[name], key.default)
            key.check(name, values[name])
    for group in OPTION_GROUPS:
        section, _, name = group.partition(".")
        for option, value in leaves(config[section][name], f"{group}."):
            _check_option(option, value)


def _check_option(name, value):
    """Refuses numbers that no option can have; the module that takes it knows its own range."""
    for number in value if isinstance(value, tuple | list) else (value,):
        if isinstance(number, float) and not _is_finite(number):
            raise UserError(f"{name} must be a finite number, got {value!r}")
        _check_size(name, number)


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("group.key", value) for each key of a config that is not a group."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _check_kind(name, value, default_value):
    """Refuses None, infinities, tuples of other things and numbers that no array can hold."""
    if value is None and default_value is not None:
        raise UserError(f"{name} must have a value, got None; its default is {default_value!r}")
    if isinstance(value, tuple) and not all(map(_is_finite, value)):
        raise UserError(f"{name} must be finite numbers, got {value!r}")
    if isinstance(value, float) and not _is_finite(value):
        raise UserError(f"{name} must be a finite number, got {value!r}")
    for number in value if isinstance(value, tuple) else (value,):
        _check_size(name, number)


def _check_size(name, number):
    """Refuses numbers beyond those of int32 and float32, in which steps and rates are computed."""
    if isinstance(number, bool) or not isinstance(number, int | float) or name == "seed":
        return
    largest = LARGEST_INTEGER if isinstance(number, int) else LARGEST_FLOAT
    rule = f"between -{largest:,} and {largest:,}" if isinstance(number, int) else "at most 3.4e38"
    check_range(name, number, abs(number) <= largest, rule)


def _is_finite(value):
    if isinstance(value, int):
        return True
    return isinstance(value, float) and math.isfinite(value)
