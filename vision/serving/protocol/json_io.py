"""JSON from clients, which may be hostile, and long JSON for them.

While Python reads or writes JSON in one go, no other thread runs: hence the limits.
"""

import itertools
import json
import reprlib
from collections.abc import Sequence
from typing import Any

from vision.serving.errors import Refused, TooLarge

# numbers in JSON that are not integers: pixels are, and others take ten times as long to read
MAX_FLOATS = 1_000
STEP = 1_024  # numbers that are written as JSON at a time: meanwhile no other thread can run
# numbers and lists: the process does nothing else for a tenth of a second
MAX_JSON_ITEMS = 2_000_000
JSON_TYPES = {str: "string", int: "integer", bool: "boolean", list: "array", dict: "object"}


def read_json(data: bytes) -> dict[str, Any]:
    """Returns the object in bytes of JSON; refuses NaN and keys that are given twice.

    Raises:
        Refused: the bytes are not JSON, or not an object.
        TooLarge: there are too many values.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_JSON_ITEMS:
        raise TooLarge(
            f"the JSON has more than {MAX_JSON_ITEMS:,} values: send tensors as binary data"
        )
    float_count = itertools.count(1)

    def parse_float(text):
        if next(float_count) > MAX_FLOATS:
            raise TooLarge(
                f"the JSON has more than {MAX_FLOATS:,} numbers that are not integers; "
                "pixels are integers from 0 to 255"
            )
        return float(text)

    try:
        document = json.loads(
            str(data, "utf-8-sig"),  # PowerShell begins a text with a mark
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=parse_float,
        )
    except RecursionError as error:
        raise Refused("the JSON is nested too deeply") from error
    # also raised for bytes that are not text, and for numbers with thousands of digits
    except ValueError as error:
        raise Refused("the body is not valid JSON") from error
    if not isinstance(document, dict):
        raise Refused("the JSON must be an object")
    return document


def join_items(values: Sequence[Any]) -> str:
    """Returns the items of a JSON list, without its brackets."""
    return ", ".join(
        json.dumps(values[start : start + STEP])[1:-1] for start in range(0, len(values), STEP)
    )


def field_of(
    document: dict[str, Any],
    key: str,
    kind: type,
    default: Any = None,
    required: bool = False,
) -> Any:
    """Returns a value of a JSON object.

    Args:
        document: the object.
        key: name of the value.
        kind: the type that it must have, a key of `JSON_TYPES`.
        default: the result if the key is missing.
        required: whether a missing key is an error instead.

    Raises:
        Refused: the value has another type, or is required and missing.
    """
    if key not in document:
        if required:
            raise Refused(f"{key!r} is missing")
        return default
    value = document[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Refused(f"{key!r} must be a JSON {JSON_TYPES[kind]}, got {quote(value)}")
    return value


def objects_of(
    document: dict[str, Any], key: str, limit: int, required: bool = False
) -> list[dict[str, Any]]:
    """Returns a list of at most `limit` objects in a JSON object; [] if it is missing.

    Raises:
        Refused: it is something else, or is required and missing.
    """
    values = field_of(document, key, list, [], required)
    if not all(isinstance(value, dict) for value in values) or len(values) > limit:
        raise Refused(f"{key!r} must be a list of at most {limit} objects")
    return values


def parameters_of(document: dict[str, Any]) -> dict[str, Any]:
    """Returns the "parameters" of a JSON object; {} if there are none."""
    return field_of(document, "parameters", dict, {})


def quote(value: object) -> str:
    """Returns a client's value as an error message can show it: short, on one line."""
    return reprlib.repr(value)


def _object(pairs):
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is given twice")
    return document


def _refuse_constant(name):
    raise ValueError(f"{name} is not JSON")
