"""Images that are broken, of two kinds at a time, or more than they seem, and forms around them."""

import struct
import zlib

from tests.support.wire import (
    ANY,
    FORMATS,
    chunk,
    classify,
    form,
    image,
    named,
    png,
)


def images():
    """Images that are cut, of another kind, or of two kinds at a time."""
    bodies = []
    for kind in FORMATS:
        data = image(kind)
        bodies += [data[: len(data) * part // 40] for part in range(36)]
        bodies += [b"\0" * 16 + data, data[::-1], data[:40]]
    jpeg = image("JPEG")
    good = image()
    mixed = [
        b"",
        b"\0",
        b"\n" * 1_000,
        b"%PDF-1.7\n",
        b"<svg/>",
        b"<?xml version='1.0'?>",
        b"PK\3\4" + b"\0" * 60,
        b"\x7fELF",
    ]
    mixed += [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"P6 2 2 255 " + b"x" * 12,
        b"\0\0\1\0" + b"\0" * 90,
    ]
    mixed += [
        b"8BPS\0\1" + b"\0" * 40,
        b"#!/bin/sh\nexit\n",
        b"GIF89a/*" + b"x" * 99 + b"*/=1;",
        b"GIF89a" + jpeg,
        b"BM" + good,
    ]
    mixed += [
        b"\x89PNG\r\n\x1a\n" + jpeg,
        b"\xff\xd8\xff\xe0" + good,
        b"II*\0" + jpeg,
        b"MM\0*" + good,
        b"RIFF\0\0\0\0WEBP" + good,
    ]
    mixed += [
        b"\x93NUMPY" + b"\0" * 99,
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        b"import os",
        b"II+\0\x08\0\0\0" + b"\0" * 50,
    ]
    # may decode
    harmless = [
        jpeg + b"PK\3\4" + b"\0" * 99,
        good + b"<script>",
        jpeg + good,
        image("GIF") + b"<?php",
    ]
    return named("image", [classify(body) for body in (*bodies, *mixed)]) + named(
        "polyglot", [classify(body) for body in harmless], ANY
    )


def bombs():
    """Images that are more than they seem."""
    sides = [
        (0, 0),
        (0, 9),
        (9, 0),
        (100_000, 1),
        (1, 100_000),
        (2**31 - 1, 2**31 - 1),
        (2**32 - 1, 1),
        (30_000, 30_000),
    ]
    sides += [(16_384, 1), (8_000, 8_000), (16_385, 9), (20_000, 5_000)]
    bodies = [png(width, height, data=b"\0" * 1_000) for width, height in sides]
    bodies += [
        png(9, 9, bits=3),
        png(9, 9, bits=16, color=7),
        png(9, 9, color=3),
    ]
    text = zlib.compress(b"x" * 50_000_000, 9)
    bodies += [
        png(9, 9, data=b"", extra=chunk(b"zTXt", b"a\0\0" + text)),
        png(9, 9, extra=chunk(b"iCCP", b"a\0\0" + text)),
    ]
    bodies += [
        png(9, 9, extra=chunk(b"PLTE", b"\0" * 7)),
        png(9, 9, extra=chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")),
    ]
    for width, height in ((0, 0), (65_535, 65_535), (65_535, 1)):
        bodies.append(
            b"GIF89a"
            + struct.pack("<HHBBB", width, height, 0, 0, 0)
            + b",\0\0\0\0"
            + struct.pack("<HHB", width, height, 0)
            + b"\2\1\0;"
        )
        start = struct.pack(">BBHBHHB", 0xFF, 0xC0, 11, 8, height, width, 1) + b"\1\x11\0"
        bodies.append(b"\xff\xd8" + start + b"\xff\xda\0\x08\1\1\0\0?\0\0\xff\xd9")
        vp8x = (
            b"VP8X"
            + struct.pack("<I", 10)
            + b"\0\0\0\0"
            + struct.pack("<I", width)[:3]
            + struct.pack("<I", height)[:3]
        )
        bodies.append(b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x)
    for width, height in ((0, 0), (2**31 - 1, 2**31 - 1), (-5, 5), (100_000, 1), (30_000, -30_000)):
        bodies.append(
            b"BM"
            + struct.pack(
                "<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, width, height, 1, 24, 0, 16, 1, 1, 0, 0
            )
            + b"\0" * 16
        )
    for width, height, rows in (
        (0, 0, 1),
        (100_000, 1, 1),
        (2**32 - 1, 2**32 - 1, 1),
        (50_000, 50_000, 2**31),
    ):
        tags = [
            (256, width),
            (257, height),
            (258, 8),
            (259, 1),
            (262, 1),
            (273, 8),
            (277, 1),
            (278, rows),
            (279, 2**31),
        ]
        table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        bodies.append(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + table + b"\0" * 4)
    loop = b"II*\0\x08\0\0\0\0\0\x08\0\0\0"  # a directory of no entries that is followed by itself
    return named("bomb", [classify(body) for body in (*bodies, loop)])


def parts():
    """Images of very many parts, each of which costs a decoder more than it costs to send."""
    jpeg = image("JPEG")
    gif = image("GIF")
    scan = jpeg[jpeg.index(b"\xff\xda") :]
    bodies = [
        jpeg[:2] + b"\xff" * 4_000_000 + jpeg[2:],
        jpeg[:2] + b"\xff\xfe\0\2" * 1_000_000 + jpeg[2:],
    ]
    bodies += [jpeg[:2] + b"\0" * 4_000_000 + jpeg[2:], b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000]
    bodies += [
        png(9, 9, data=b"\0" * 90, extra=chunk(b"abCd", b"") * 300_000),
        image()[:33] + chunk(b"IDAT", b"") * 300_000,
    ]
    bodies += [
        gif[:13] + b"!\xfe" + b"\1a" * 1_000_000 + b"\0" + gif[13:],
        gif[:13] + b"!\xfe\0" * 1_000_000,
    ]
    tags = [
        (256, 4, 1, 9),
        (257, 4, 1, 9),
        (258, 3, 1, 8 << 16),
        (273, 4, 500_000, 200),
        (279, 4, 500_000, 200),
    ]
    table = b"".join(struct.pack(">HHII", *tag) for tag in tags)
    bodies.append(b"MM\0*\0\0\0\x08" + struct.pack(">H", len(tags)) + table + b"\0" * 2_000_200)
    info = struct.pack(
        "<IHHIIiiHHIIiiII", 1_000_000, 0, 0, 54, 40, 7_000, 7_000, 1, 8, 1, 0, 1, 1, 0, 0
    )
    bodies.append(b"BM" + info + b"\0\0" * 500_000)
    huge = jpeg.replace(struct.pack(">HH", 30, 40), struct.pack(">HH", 6_000, 8_000), 1).replace(
        b"\xff\xc0", b"\xff\xc2", 1
    )
    bodies.append(huge[:-2] + scan[:-2] * 2_000 + b"\xff\xd9")
    return named("parts", [classify(body) for body in bodies])


def forms():
    part = b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + image()
    other = b'Content-Disposition: form-data; name="other"\r\n\r\nx'
    kind = "multipart/form-data; boundary=xyz"
    bodies = [
        b"",
        b"--xyz",
        b"--xyz--",
        form(),
        form(other),
        form(part, end=b""),
        form(part, boundary=b"abc"),
        form(part)[:-60],
    ]
    bodies += [form(*[other] * n) for n in (15, 17, 10_000)] + [
        b"--xyz\r\n" * 200_000,
        b"\r\n--" * 1_000_000,
        b"\r" * 2_000_000,
    ]
    bodies += [
        form(b"x" + part[40:]),
        form(part[:60]),
        form(b"Content-Disposition: form-data; name=file\r\n" + image()),
    ]
    requests = [classify(body, {"Content-Type": kind}) for body in bodies]
    kinds = [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 500,
    ]
    kinds += [
        'multipart/form-data; boundary="',
        "multipart/form-data; boundary=(.*)+",
        "multipart/form-data; boundary=\xff",
    ]
    requests += [classify(form(part), {"Content-Type": kind}) for kind in kinds]
    requests += [
        classify(form(part), {"Content-Type": "multipart/mixed; boundary=xyz"}),
        classify(form(part)),
    ]
    return named("form", requests)
