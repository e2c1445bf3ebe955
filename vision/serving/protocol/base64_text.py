"""Base64 in JSON, in each form that clients write it."""

import base64
import binascii
import re
import urllib.parse
from typing import Any

from vision.serving.errors import Refused

_TO_STANDARD = str.maketrans("-_ ", "+/+")
SHORTEST_LINE = 60  # characters; programs wrap at 64 or 76
_ODD = re.compile("[^A-Za-z0-9+/]")


def decode_base64(text: Any) -> bytes:
    """Returns the bytes of an encoded image in JSON.

    It may be a data URI, as browsers write it; in lines; percent-encoded; of the URL-safe
    alphabet; without its padding; or have blanks in place of +, as from an HTML form.

    Raises:
        Refused: it is something else; the message says what.
    """
    if not isinstance(text, str):
        raise _refusal(f"got a JSON {_kind_of(text)}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass  # it is in another form
    text = _without_blanks(_content_of(text)).translate(_TO_STANDARD).rstrip("=")
    if odd := _ODD.search(text):
        raise _refusal(_reason(text, odd.start()))
    if len(text) % 4 == 1:
        raise _refusal(f"it is cut short: {len(text):,} characters cannot be whole bytes")
    return base64.b64decode(text + "=" * (-len(text) % 4))


def _content_of(text):
    """Returns what follows the head of a data URI, without percent-encoding."""
    text = text.strip("\r\n\t")
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().rstrip().endswith(";base64"):
            raise _refusal(
                'the data URI is not base64: it must begin with "data:image/...;base64,"'
            )
    if "%" in text:
        text = urllib.parse.unquote(text)
    return text


def _without_blanks(text):
    """Returns the text without line breaks, and without blanks that stand for them.

    An unquoted $(base64 photo.jpg) has blanks in place of line breaks, and so lines of one length;
    an HTML form has blanks in place of +, and these stay. No image begins with a +.
    """
    rows = text.splitlines()
    if len(rows) > 1:
        indented = rows[0][:1].isspace() or all(row[:2].isspace() for row in rows[1:] if row)
        if indented or not _is_wrapped(rows):
            rows = [row.strip() for row in rows]
        return "".join(rows)
    lines = text.split()
    if _is_wrapped(lines) and len(lines[0]) >= SHORTEST_LINE and not len(lines[0]) % 4:
        return "".join(lines)
    text = text.lstrip()
    return text.rstrip() if len(text) % 4 or text.rstrip().endswith("=") else text


def _is_wrapped(lines):
    """Whether lines have one length, except for the last, which may be shorter."""
    lengths = {len(line) for line in lines[:-1]}
    return len(lengths) == 1 and len(lines[-1]) <= lengths.pop()


def _reason(text, position):
    """Returns why a text is not base64, given the position where it stops being so."""
    if text.startswith(("http://", "https://", "file:", "s3:", "gs:")):
        return "it is an address, and the server fetches nothing: send the image itself"
    if text.startswith(("b'", 'b"')):
        return "it is the text form of Python bytes: send base64.b64encode(data).decode()"
    if text[position] == "=":
        return "it continues after its padding: send each image as a string of its own"
    if re.fullmatch(r"[^\n]{1,255}\.[A-Za-z]{3,4}", text):
        return "it is the name of a file: send the file's content"
    return f"character {position:,} is {ascii(text[position])}"


def _kind_of(value):
    names = {bool: "boolean", dict: "object", list: "list", type(None): "null"}
    return names.get(type(value), "number")


def _refusal(reason):
    return Refused(f"an encoded image in JSON must be a base64 string: {reason}")
