"""Checks a gRPC message by its bytes, before it is parsed.

While it is parsed nothing else runs, threads included: a field of two bytes may take ninety once it
is parsed, and a million of them half a second. Since the places of the images are known, the size
of everything else is too. The encoding: https://protobuf.dev/programming-guides/encoding.
"""

from typing import Any

import numpy as np

from vision.serving.errors import Refused, TooLarge
from vision.serving.protocol.json_io import MAX_JSON_ITEMS

FIELDS = 256  # fields of a message and of the messages in it that contain images, at most
ROOM = 65_536  # bytes of a message besides its images
ENCODED = "bytes"
NUMBERS = "integers, one after the other"
# The places of images in a ModelInferRequest, by field number: inputs have contents, which have
# uint_contents and bytes_contents; and raw_input_contents.
INFER = {5: {5: {4: NUMBERS, 8: ENCODED}}, 7: ENCODED}
# bytes of a field by its wire type; type 0 is a number, and in type 2 the size comes first
SIZES = {1: 8, 5: 4}


def check(data: bytes, images: dict[int, Any], fields: int = FIELDS) -> None:
    """Raises an error if a message must not be parsed.

    Args:
        data: the message.
        images: where a message of its kind has images: `INFER`, or {} if it has none.
        fields: how many fields it may have.

    Raises:
        Refused: it is cut short, or has more fields.
        TooLarge: it has more than `ROOM` bytes besides its images, or too many numbers in lists.
    """
    field_count = 0
    number_count = 0
    other_bytes = len(data)
    messages = [(0, len(data), images)]
    while messages:
        position, end, kinds = messages.pop()
        while position < end:
            field_count += 1
            if field_count > fields:
                raise Refused(f"the message has more than {fields} fields")
            number, start, position = _field(data, position)
            if position > end:
                raise Refused("the message is broken")
            kind = kinds.get(number)
            if isinstance(kind, dict):
                messages.append((start, position, kind))
            elif kind:
                other_bytes -= position - start
            if kind == NUMBERS:
                number_count += _count_varints(data, start, position)
    if number_count > MAX_JSON_ITEMS:
        raise TooLarge(
            f"contents has more than {MAX_JSON_ITEMS:,} numbers: send raw_input_contents"
        )
    if other_bytes > ROOM:
        raise TooLarge(f"the message has more than {ROOM:,} bytes besides its images")


def _count_varints(data, start, end):
    """Returns how many numbers are in a part: bytes of 128 or more are not a number's last."""
    return np.count_nonzero(np.frombuffer(data, np.uint8, end - start, start) < 128)


def _field(data: bytes, position: int) -> tuple[int, int, int]:
    """Returns (number, start of the content, end of the content) of the field at a position.

    The number is 0 if the content does not follow its size, as images and messages do.
    """
    try:
        tag, position = _varint(data, position)
        wire_type = tag & 7
        if wire_type == 0:
            return 0, position, _varint(data, position)[1]
        if wire_type == 2:
            size, position = _varint(data, position)
            return tag >> 3, position, position + size
        return 0, position, position + SIZES[wire_type]
    except (IndexError, KeyError) as error:
        raise Refused("the message is broken") from error


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Returns (the number at a position, where it ends)."""
    number = 0
    shift = 0
    while data[position] & 0x80:
        number |= (data[position] & 0x7F) << shift
        position += 1
        shift += 7
        if shift > 63:
            raise IndexError
    return number | data[position] << shift, position + 1
