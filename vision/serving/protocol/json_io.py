"""JSON from strangers, and long JSON: while it is read, or written in one go, nothing else runs,
threads included."""

import itertools
import json

from vision.serving.errors import Refused, TooLarge

# numbers in JSON that are not whole: pixels are, and others take ten times as long to read
MAX_FLOATS = 1_000
STEP = 1_024  # numbers that are written as JSON at a time: meanwhile no other thread can run
# numbers and lists: a tenth of a second that the process does nothing else
MAX_JSON_ITEMS = 2_000_000


def read_json(data):
    """Returns the dict that bytes of JSON hold; refuses what is no JSON, as NaN, and keys that are
    given twice."""
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_JSON_ITEMS:
        raise TooLarge(
            f"the JSON has more than {MAX_JSON_ITEMS:,} values: send tensors by the binary extension"
        )
    floats = itertools.count(1)

    def number(text):
        if next(floats) > MAX_FLOATS:
            raise TooLarge(
                f"the JSON has more than {MAX_FLOATS:,} numbers that are not whole; pixels are, from 0 to 255"
            )
        return float(text)

    hooks = {"object_pairs_hook": _object, "parse_constant": _constant, "parse_float": number}
    try:
        document = json.loads(str(data, "utf-8"), **hooks)
    except RecursionError as error:
        raise Refused("the JSON is nested too deep") from error
    # also of bytes that are no text, and of numbers with thousands of digits
    except ValueError as error:
        raise Refused("the body is no JSON") from error
    if not isinstance(document, dict):
        raise Refused("the JSON is no object")
    return document


def items(values):
    """Returns what stands between the brackets of a list in JSON."""
    return ", ".join(
        json.dumps(values[start : start + STEP])[1:-1] for start in range(0, len(values), STEP)
    )


def _object(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _constant(name):
    raise ValueError(f"{name} is no JSON")
