"""What a value read from a file must look like, written with plain types.

int, float, str, bool, None    such a value; a float may be an integer, and no number is infinite
object                         anything
Rule("at least 1", ...)        what the rule allows
(int, None)                    one of several
[int]                          a list of them
{str: int}                     a mapping with any keys
{"a": int, "b?": [str]}        a mapping with these keys, "b" optional; further keys are allowed
"""

import dataclasses
import re
import sys
from collections.abc import Callable
from typing import Any

from vision.errors import UserError, shown

LARGEST_INTEGER = 2**63 - 1
NAMES = {
    int: "an integer",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    None: "null",
    dict: "a mapping",
    list: "a list",
}
# half of a character, which no file can hold; the others stand for bytes of file names
_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")


@dataclasses.dataclass(frozen=True)
class Rule:
    """Values that a schema allows.

    Attributes:
        text: completes "KEY must be ...", such as "an integer of at least 1".
        allows: whether a value is allowed; may raise TypeError or ValueError for one that is not.
    """

    text: str
    allows: Callable[[Any], Any]


class Damaged(UserError):
    """A file's contents are not what they must be."""


def at_least(low: int) -> Rule:
    """Returns the rule of the integers from `low`."""
    text = f"an integer of at least {low}"
    return Rule(text, lambda value: type(value) is int and low <= value <= LARGEST_INTEGER)


def among(*choices: Any) -> Rule:
    """Returns the rule of some values."""
    text = " or ".join(map(repr, choices))
    return Rule(text, lambda value: type(value) in map(type, choices) and value in choices)


def numbers_within(low: float, high: float) -> Rule:
    """Returns the rule of the numbers from `low` to `high`."""
    text = f"a number from {low:g} to {high:g}"
    return Rule(text, lambda value: is_number(value) and low <= value <= high)


def filled(kind: Any) -> Rule:
    """Returns the rule of lists, not empty, of what another schema allows."""
    text = f"a list of {_describe(kind)}, not empty"
    return Rule(text, lambda value: bool(value) and mismatch(value, [kind]) is None)


def integers_within(low: int, high: int) -> Rule:
    """Returns the rule of the integers from `low` to `high`."""
    text = f"an integer from {low:,} to {high:,}"
    return Rule(text, lambda value: type(value) is int and low <= value <= high)


NATURAL = at_least(0)
SIDE = integers_within(1, 65_536)  # of an image, in pixels
# of the files of one directory: never a path that leads out of it
FILE_NAME = Rule(
    "the name of a file, without a folder",
    lambda value: not re.search(r"[/\\\0]|^\.*$", value) and len(value.encode()) <= 255,
)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def check(
    value: Any, schema: Any, file: Any, remedy: str = "", key: str = "", form: str = ""
) -> Any:
    """Returns a value that agrees with a schema.

    Args:
        value: what was read.
        schema: see the module.
        file: where it was read, for the message.
        remedy: what to do, for the message.
        key: name of the value in the file; "" for all of it.
        form: name of a format that is not ours, such as "in COCO format", for the message.

    Raises:
        Damaged: it does not agree; names the key, what it must be and what it is.
    """
    difference = mismatch(value, schema, key)
    if difference is None:
        return value
    raise damaged(file, difference, remedy, form)


def damaged(file: Any, reason: str, remedy: str = "", form: str = "") -> Damaged:
    """Returns the error for a file whose contents are not what they must be; see `check`."""
    ending = f": {remedy}" if remedy else ""
    return Damaged(f"{file} is {f'not {form}' if form else 'damaged'}: {reason}{ending}")


def mismatch(value: Any, schema: Any, key: str = "") -> str | None:
    """Returns why a value does not agree with a schema, "KEY must be ..."; None if it agrees."""
    if isinstance(schema, list) and isinstance(value, list):
        checks = ((item, schema[0], f"{key}[{i}]") for i, item in enumerate(value))
    elif isinstance(schema, dict) and isinstance(value, dict):
        checks = _members(value, schema, key)
    else:
        if _agrees(value, schema):
            return None
        nested = _nested(value, schema)
        if nested is not None:
            return mismatch(value, nested, key)
        return f"{key or 'the file'} must be {_describe(schema)}, got {shown(value)}"
    for item, kind, name in checks:
        if item is _MISSING:
            return f"{name!r} is missing"
        difference = mismatch(item, kind, name)
        if difference is not None:
            return difference
    return None


_MISSING = object()


def _members(value, schema, key):
    """Yields (item, schema, name) of the members of a mapping."""
    if str in schema:
        for name, item in value.items():
            yield name, str, f"a key of {key or 'the file'}"
            yield item, schema[str], _join(key, name)
        return
    for name, kind in schema.items():
        plain = name.removesuffix("?")
        if plain in value or plain == name:
            yield value.get(plain, _MISSING), kind, _join(key, plain)


def _nested(value, schema):
    """Returns the one of several schemas that a mapping or a list must mean; None if none is."""
    if not isinstance(schema, tuple) or not isinstance(value, dict | list):
        return None
    return next((kind for kind in schema if isinstance(kind, type(value))), None)


def _join(key, name):
    name = name if len(name) < 60 else f"{name[:60]}..."
    return f"{key}.{name}" if key else name


def _agrees(value, schema):
    if isinstance(schema, tuple):
        return any(mismatch(value, kind) is None for kind in schema)
    if isinstance(schema, Rule):
        try:
            return bool(schema.allows(value))
        except (TypeError, ValueError, OverflowError, AttributeError, KeyError):
            return False
    if schema is None or schema is object:
        return schema is object or value is None
    if schema is float:
        return is_number(value)
    if schema is int:
        return type(value) is int and abs(value) <= LARGEST_INTEGER
    if schema is str:
        return isinstance(value, str) and not _HALVES.search(value)
    return isinstance(schema, type) and isinstance(value, schema)


def _describe(schema):
    if isinstance(schema, tuple):
        return " or ".join(map(_describe, schema))
    if isinstance(schema, Rule):
        return schema.text
    if isinstance(schema, list):
        return "a list"
    if isinstance(schema, dict):
        return "a mapping"
    return NAMES.get(schema, str(schema))
