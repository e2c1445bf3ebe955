"""Options whose names a module of its own declares, with their defaults."""

from collections.abc import Mapping
from typing import Any

from vision.errors import UserError, check_choice


def complete(
    key: str, subject: str, given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns all options: the defaults, and the values that a config sets.

    Args:
        key: the group of the config, such as "objective.options".
        subject: what has these options, for a message.
        given: the values that the config sets.
        defaults: {name: default}.

    Raises:
        UserError: there is no such option, or the value has another type than its default.
    """
    options = dict(defaults)
    for name, value in given.items():
        if name not in defaults:
            if not defaults:
                raise UserError(f"{key}.{name}: {subject} has no options")
            check_choice(key, name, tuple(defaults))
        options[name] = _as_type(f"{key}.{name}", value, defaults[name])
    return options


def _as_type(key: str, value: Any, default: Any) -> Any:
    """Returns a value with its default's type; an int may stand for a float."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if default is None or type(value) is type(default):
        return value
    kind = type(default).__name__
    raise UserError(f"{key} must be of type {kind}, like its default {default!r}, got {value!r}")
