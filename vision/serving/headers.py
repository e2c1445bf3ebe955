"""Reads an image's size from its header, at a bounded cost.

PIL steps through a file's segments in Python, and nothing else runs meanwhile: 32 megabytes of
empty ones keep the whole server busy for 20 seconds. So they are counted first, up to a limit.
"""

import contextlib
import io
import itertools
from collections.abc import Callable, Iterable

import simplejpeg

from vision.data.decode import read_header
from vision.data.formats import format_of
from vision.serving.errors import Refused, TooLarge, Unreadable

# {format that the server reads: its media type}; PIL reads dozens, some with external programs
FORMATS = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WebP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
BASE64 = (b"/9j/", b"iVBORw0KGgo", b"R0lGODlh", b"R0lGODdh", b"UklGR")  # how images begin in it
FEW = 16  # scans of a JPEG; progressive ones have ten
# Segments, chunks, blocks or strips of a file; a PNG of 80 MB has this many of the default size.
STEPS = 10_000


def size_of(data: bytes) -> tuple[int, int]:
    """Returns the stored (width, height) of an encoded image.

    Raises:
        Unreadable: it is of an unknown format.
        TooLarge: it has too many parts.
        Refused: its header is broken.
    """
    kind = format_of(data)
    if kind not in FORMATS:
        raise Unreadable(f"{_what_else(data)}: send {', '.join(FORMATS)}")
    try:
        if len(_steps(WALKS[kind](data))) > STEPS:
            raise TooLarge(f"the image has more than {STEPS:,} parts")
        if kind == "PNG" and data[12:16] == b"IHDR":
            return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        if kind == "JPEG":
            with contextlib.suppress(ValueError):  # PIL may read it
                height, width, *_ = simplejpeg.decode_jpeg_header(data)
                return width, height
        return read_header(io.BytesIO(data))[0]
    except (IndexError, ValueError) as error:  # UnreadableImage is one
        raise Refused("the image's header cannot be read") from error


def _what_else(data):
    """Returns what bytes are if they are not an image that is read here."""
    if data[4:8] == b"ftyp":
        is_avif = data[8:12] in (b"avif", b"avis")
        return f"{'an AVIF' if is_avif else 'a HEIC or video'} file is not accepted"
    if data[:5].lower() == b"data:" or data.startswith(BASE64):
        return "this is base64, not the image's bytes"
    if data.lstrip()[:1] == b"{":
        return "this is JSON, not the image's bytes"
    return "not an image of a known format"


def scans_of(data: bytes) -> int:
    """Returns how often a decoder passes over the pixels; a JPEG file sets its own number."""
    if format_of(data) != "JPEG":
        return 1
    count = data.count(b"\xff\xda")
    if count > FEW:  # some may be in a preview, or in an appended video
        start = _steps(_jpeg(data))[-1]
        count = data.count(b"\xff\xda", start, data.find(b"\xff\xd9", start) % (len(data) + 1))
    return count


def _steps(walk):
    """Returns the positions of a walk, at most one more than is allowed."""
    return list(itertools.islice(walk, STEPS + 1))


def _jpeg(data):
    """Yields the end of each segment before the pixels, and of each byte outside of segments."""
    at = 2
    while True:
        yield at
        if data[at] != 0xFF or data[at + 1] in (0x00, 0xFF):
            at += 1
        elif data[at + 1] == 0xDA:
            return
        elif data[at + 1] == 0x01 or 0xD0 <= data[at + 1] <= 0xD9:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))


def _png(data):
    """Yields the end of each chunk.

    Refuses a chunk longer than the file, for which OpenCV would allocate memory, and a second
    header, which PIL would believe.
    """
    at = 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        if size > len(data):
            raise Refused("the image is truncated")
        if name == b"IHDR" and at > 8:
            raise Refused("the image has two headers")
        at += 12 + size
        yield at
        if name == b"IEND":
            return


def _gif(data):
    """Yields the end of each block before the pixels."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[at] == 0x21:
        at += 2
        while data[at]:
            at += 1 + data[at]
            yield at
        at += 1
        yield at


def _bmp(data):
    """Yields nothing; refuses run-length encoded pixels, which PIL unpacks in Python."""
    if data[14] >= 40 and data[30] in (1, 2):
        raise Refused("run-length encoded BMP is not supported: save it without compression")
    return ()


def _tiff(data):
    """Yields the position of each tag, once per strip or tile that it lists, as PIL lists them."""
    order = "little" if data[:2] == b"II" else "big"
    start = int.from_bytes(data[4:8], order) + 2
    for at in range(start, start + 12 * int.from_bytes(data[start - 2 : start], order), 12):
        count = 1
        if int.from_bytes(data[at : at + 2], order) in (273, 324):  # StripOffsets, TileOffsets
            count = int.from_bytes(data[at + 4 : at + 8], order)
        yield from itertools.repeat(at, count)


WALKS: dict[str, Callable[[bytes], Iterable[int]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": _tiff,
    "WebP": lambda data: (),
}
