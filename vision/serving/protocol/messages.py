"""What a message of gRPC holds, by its bytes: while it is parsed nothing else runs, threads
included.

A field of two bytes may take ninety once it is parsed, and a million of them half a second. Who
knows where a request has its images sees before how much else there is. Of the bytes:
https://protobuf.dev/programming-guides/encoding.
"""

import numpy as np

from vision.serving.errors import Refused, TooLarge
from vision.serving.protocol.json_io import MAX_JSON_ITEMS

FIELDS = 256  # of a message, at most, and of what is in it and holds images, all together
ROOM = 65_536  # bytes of a message besides its images
ENCODED = "bytes"
NUMBERS = "whole numbers, one after the other"
# Where a ModelInferRequest has images, by the numbers of the fields: inputs have contents, which
# have uint_contents and bytes_contents; and raw_input_contents.
INFER = {5: {5: {4: NUMBERS, 8: ENCODED}}, 7: ENCODED}
# bytes of a field, by its wire type; 0 is a number and 2 has its size before it
SIZES = {1: 8, 5: 4}


def check(data, images, fields=FIELDS):
    """Raises an error where a message is not one to parse.

    Args:
        data: its bytes.
        images: where a message of its kind has images: `INFER`, or {} for nowhere.
        fields: that it may have.

    Raises:
        Refused: it is cut short, or has more fields.
        TooLarge: it has more than `ROOM` besides its images, or more numbers in lists than are
            read.
    """
    count = 0
    numbers = 0
    rest = len(data)
    parts = [(0, len(data), images)]
    while parts:
        at, end, known = parts.pop()
        while at < end:
            count += 1
            if count > fields:
                raise Refused(f"the message has more than {fields} fields")
            number, start, at = _field(data, at)
            if at > end:
                raise Refused("the message is broken")
            kind = known.get(number)
            if isinstance(kind, dict):
                parts.append((start, at, kind))
            elif kind:
                rest -= at - start
            if kind == NUMBERS:  # a byte of 128 or more is not the last one of a number
                numbers += np.count_nonzero(np.frombuffer(data, np.uint8, at - start, start) < 128)
    if numbers > MAX_JSON_ITEMS:
        raise TooLarge(
            f"contents has more than {MAX_JSON_ITEMS:,} numbers: send raw_input_contents"
        )
    if rest > ROOM:
        raise TooLarge(f"the message has more than {ROOM:,} bytes besides its images")


def _field(data, at):
    """Returns (number, where its content begins, where it ends) of a field.

    Where no size is before the content, as it is before images and other messages, the number is 0.
    """
    try:
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            return 0, at, _varint(data, at)[1]
        if tag & 7 == 2:
            size, at = _varint(data, at)
            return tag >> 3, at, at + size
        return 0, at, at + SIZES[tag & 7]
    except (IndexError, KeyError) as error:
        raise Refused("the message is broken") from error


def _varint(data, at):
    """Returns (the number that begins at a place, where it ends)."""
    number = shift = 0
    while data[at] & 0x80:
        number |= (data[at] & 0x7F) << shift
        at = at + 1
        shift = shift + 7
        if shift > 63:
            raise IndexError
    return number | data[at] << shift, at + 1
