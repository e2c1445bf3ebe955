"""16-bit colors: PIL keeps 8 of their bits, so a finding says so, and data.bits keeps others."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from vision.data.decode import UnreadableImage, decode, largest_value
from vision.data.sample import look
from vision.data.sources import open_splits

COLOR = np.random.RandomState(0).randint(0, 4096, (6, 9, 3)).astype(np.uint16)
ALPHA = np.full((6, 9, 1), 65535, np.uint16)
RGBA = np.concatenate([COLOR, ALPHA], 2)


def encoded(pixels, extension):
    order = [2, 1, 0, 3][: pixels.shape[2]]
    return cv2.imencode(extension, pixels[..., order])[1].tobytes()


def chunk(name, content):
    code = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", code)


def gray_alpha(gray, alpha):
    """A PNG of 16-bit gray with alpha, which neither PIL nor OpenCV writes."""
    pixels = np.stack([gray, alpha], -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", gray.shape[1], gray.shape[0], 16, 4, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("pixels", [COLOR, RGBA], ids=["RGB", "RGBA"])
def test_twelve_bits_of_color_are_kept(pixels, extension):
    data = encoded(pixels, extension)
    assert largest_value(data) == COLOR.max()
    np.testing.assert_array_equal(decode(data, bits=12), COLOR >> 4)
    np.testing.assert_array_equal(decode(data), COLOR >> 8)
    with pytest.raises(UnreadableImage, match="too large for data.bits=11"):
        decode(data, bits=11)


def test_twelve_bits_of_gray_with_alpha():
    data = gray_alpha(COLOR[..., 0], ALPHA[..., 0])
    assert largest_value(data) == COLOR[..., 0].max()
    np.testing.assert_array_equal(decode(data, bits=12)[..., 0], COLOR[..., 0] >> 4)
    clear = decode(gray_alpha(COLOR[..., 0], 0 * ALPHA[..., 0]), bits=12)
    assert clear.shape == (6, 9, 1) and (clear == 255).all()


@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_a_finding_says_what_is_lost(tmp_path, extension):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"0{extension}").write_bytes(encoded(RGBA, extension))
    kinds = {finding.kind for finding in look(open_splits(f"folder:{tmp_path}")["all"], 9).findings}
    assert kinds == {"16-bit images use 12 bits, so few gray values are left: set data.bits=12"}


def test_what_cannot_be_kept_is_refused():
    """A PNG with EXIF is read by PIL, which would drop the lower bits without a word."""
    data = encoded(COLOR, ".png")
    tagged = data[:33] + chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0") + data[33:]
    assert decode(tagged).shape == COLOR.shape
    with pytest.raises(UnreadableImage, match="save it without tags"):
        decode(tagged, bits=12)
    assert decode(data, bits=16).shape == COLOR.shape
