"""Checks of the numbers in a config, made before anything is opened or written.

What depends on the data or the devices, such as whether a batch divides over them, is checked where
those are known.
"""

import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from vision.config.schema import OPTION_GROUPS, all_keys
from vision.errors import UserError


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


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("group.key", value) for each key of a config that is not a group."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _check_kind(name, value, default_value):
    """Refuses None, infinities and tuples of other things, which ConfigDict's types allow."""
    if value is None and default_value is not None:
        raise UserError(f"{name} must have a value, got None; its default is {default_value!r}")
    if isinstance(value, tuple) and not all(map(_is_finite, value)):
        raise UserError(f"{name} must be finite numbers, got {value!r}")
    if isinstance(value, float) and not _is_finite(value):
        raise UserError(f"{name} must be a finite number, got {value!r}")


def _is_finite(value):
    return isinstance(value, int | float) and math.isfinite(value)
