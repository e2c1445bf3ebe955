"""Mutations of files, with what each format makes likely to go wrong: the same for a seed.

`mutate(data, form, random)` returns other bytes. A form is "json", "text", "xml", "bytes", "image",
"npy", "zip" (.npz and PyTorch's archives), "safetensors" or "parquet".
"""

import copy
import io
import json
import random as random_module
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Random = random_module.Random

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    2**70,
    -(2**70),
    1e300,
    -0.0,
    float("nan"),
    float("inf"),
    0.5,
    "",
    "\0",
    "../../etc/passwd",
    "/dev/zero",
    "\x1b[31mred\u202e",
    "=1+1",
    "\ud800",
    "\udcff",
    "a" * 5000,
    "nan",
    "1",
    [],
    {},
    [None],
    [[]],
    {"": None},
    {"a.b": 1, "items": 2},
    list(range(300)),
)
RAW = (b"1e999", b"-Infinity", b"9" * 5000, b"[" * 3000 + b"]" * 3000, b"\xff\xfe", b"{}x", b"'")
NUMBERS = (b"-1", b"0", b"nan", b"inf", b"1e308", b"99999999999999999999", b"0x10", b"1,5", b"")
TEXT = (b"\0", b'"', b"'", b"\r", b"\n", b"\xff", b"\xef\xbb\xbf", b"\t", b";", b",", b"=", b"\\")
XML = (
    b"<!DOCTYPE a [<!ENTITY b 'ccc'>]>",
    b"&b;",
    b"<a>" * 2000,
    b"</annotation>",
    b"<![CDATA[",
    b"<?xml version='1.0' encoding='utf-16'?>",
    b"<?xml version='1.0' encoding='cp037'?>",
    b"&#0;",
    b"<",
)
INTEGERS = (0, 1, 2, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def mutate(data: bytes, form: str, random: Random) -> bytes:
    """Returns a mutation of a file's bytes; see the module for `form`."""
    if random.random() < 0.02:
        return random.choice((b"", b"\0", data[:1], data + data, b"{}", b"[]", b"null"))
    mutation = _FORMS[form]
    if random.random() < 0.2:
        mutation = _bytes
    return mutation(data, random)


def _json(data, random):
    """Replaces, drops, renames, nests or repeats values, or puts in what is no JSON."""
    tree = [json.loads(data)]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        _change(tree, random)
    text = json.dumps(tree[0]).encode()
    if random.random() < 0.15:
        return _replace(rb"(?<=[:\[,] )[^,\[\]{}]+(?=[,\]}])", random.choice(RAW), text, random)
    return text


def _change(tree, random):
    places = list(_places(tree))
    container, key = random.choice(places)
    action = random.randrange(8)
    if action == 0 and container is not tree:
        del container[key]
    elif action == 1 and isinstance(container, dict):
        container[random.choice(("", "x", "a.b", key + "_", key.upper()))] = container.pop(key)
    elif action == 2:
        container[key] = random.choice(([container[key]], {"value": container[key]}))
    elif action == 3 and isinstance(container, list) and container is not tree:
        container.insert(random.randrange(len(container) + 1), copy.deepcopy(container[key]))
    elif action == 4:
        other, other_key = random.choice(places)
        container[key] = copy.deepcopy(other[other_key])
    elif action == 5 and type(container[key]) in (int, float):
        container[key] = container[key] * random.choice((-1, 2, 1000, 1e30)) + 1
    else:
        container[key] = copy.deepcopy(random.choice(HOSTILE))


def _places(tree):
    """Yields (container, key) of every value in a tree of dicts and lists."""
    for key in range(len(tree)) if isinstance(tree, list) else tree:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def _replace(pattern, new, text, random):
    """Replaces one match of a pattern."""
    matches = list(re.finditer(pattern, text))
    if not matches:
        return text + new
    match = random.choice(matches)
    return text[: match.start()] + new + text[match.end() :]


def _text(data, random):
    for _ in range(random.choice((1, 1, 2, 4))):
        action = random.randrange(6)
        place = random.randrange(len(data) + 1)
        lines = data.split(b"\n")
        line = random.randrange(len(lines))
        if action == 0:
            data = _replace(rb"-?\d+\.?\d*", random.choice(NUMBERS), data, random)
        elif action == 1:
            data = data[:place] + random.choice(TEXT) * random.choice((1, 1, 3)) + data[place:]
        elif action == 2:
            data = b"\n".join([*lines[:line], *lines[line + 1 :]])
        elif action == 3:
            data = b"\n".join([*lines[: line + 1], *lines[line:]])
        elif action == 4:
            data = data[:place] + b"x" * random.choice((10, 300, 200_000)) + data[place:]
        else:
            data = _replace(rb"\w+", random.choice((b"", b"\x1b[31m", b"-", b"test")), data, random)
    return data


def _xml(data, random):
    action = random.randrange(4)
    if action == 0:
        place = random.randrange(len(data) + 1)
        return data[:place] + random.choice(XML) + data[place:]
    if action == 1:
        return _replace(rb"<[^>]*>", random.choice((b"", b"<a>", b"</a>")), data, random)
    if action == 2:
        return _replace(
            rb'(?<=")[^"<>]*(?=")|(?<=>)[^<>]+(?=<)', random.choice(NUMBERS), data, random
        )
    return _text(data, random)


def _bytes(data, random):
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        if not changed:
            break
        start = random.randrange(len(changed))
        if random.random() < 0.4:  # headers and footers are where sizes are
            near = random.randrange(min(len(changed), 256))
            start = random.choice((near, len(changed) - 1 - near))
        length = min(random.choice((1, 2, 4, 16, 256)), len(changed) - start)
        action = random.randrange(7)
        if action == 0:
            changed[start] ^= 1 << random.randrange(8)
        elif action == 1:
            changed[start : start + length] = random.randbytes(length)
        elif action == 2:
            del changed[start : start + length]
        elif action == 3:
            changed[start:start] = changed[start : start + length]
        elif action == 4:
            del changed[start:]
        elif action == 5:
            changed[start : start + length] = random.choice((b"\0", b"\xff")) * length
        else:
            size = random.choice((1, 2, 4, 8))
            order = random.choice(("little", "big"))
            number = random.choice(INTEGERS) % 2 ** (8 * size)
            changed[start : start + size] = number.to_bytes(size, order)
    return bytes(changed)


def _npy(data, random):
    """Changes what the header of an .npy file claims."""
    if data[:6] != b"\x93NUMPY":
        return _bytes(data, random)
    length = int.from_bytes(data[8:10], "little")
    header = data[10 : 10 + length]
    action = random.randrange(4)
    if action == 0:
        sizes = (b"99999999999999", b"-1", b"0", b"1", b"4294967296", b"1.5", b"()", b"")
        header = _replace(rb"\d+(?=[,)])", random.choice(sizes), header, random)
    elif action == 1:
        kinds = (b"|O", b"<f8", b"<U99999999", b"|V0", b">M8[ns]", b"nothing", b"<f2", b"|S0", b",")
        header = _replace(rb"(?<=')[<>|=][a-zA-Z]\d+(?=')", random.choice(kinds), header, random)
    elif action == 2:
        header = _bytes(header, random)
    else:
        words = (b"True", b"None", b"[[[[[[[[", b"{", b"__import__('os')", b"1" * 5000)
        header = _replace(rb"False|True|\w+", random.choice(words), header, random)
    size = len(header) % 2**16 if random.random() < 0.9 else random.randrange(2**16)
    return data[:8] + size.to_bytes(2, "little") + header + data[10 + length :]


def _zip(data, random):
    """Changes a member of an archive and packs it again, or changes the archive's own numbers."""
    if random.random() < 0.25:
        return _bytes(data, random)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(list(members))
    action = random.randrange(6)
    if action == 0:
        del members[name]
    elif action == 1:
        members[random.choice(("x", "../x", name + "2", "a/" + name))] = members.pop(name)
    else:
        change = _npy if members[name][:6] == b"\x93NUMPY" else _bytes
        members[name] = change(members[name], random)
    stream = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(stream, "w", method) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    data = stream.getvalue()
    if random.random() < 0.3:  # lie about a member's size
        place = data.rfind(b"PK\x01\x02")
        number = random.choice(INTEGERS) % 2**32
        data = data[: place + 24] + number.to_bytes(4, "little") + data[place + 28 :]
    return data


def _safetensors(data, random):
    length = int.from_bytes(data[:8], "little")
    header = _json(data[8 : 8 + length], random)
    size = len(header) if random.random() < 0.9 else random.choice(INTEGERS) % 2**64
    return size.to_bytes(8, "little") + header + data[8 + length :]


def _parquet(data, random):
    """Changes the footer, which describes the columns, or a page."""
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8]
    if random.random() < 0.3:
        return _bytes(data, random)
    footer = _bytes(footer, random)
    size = len(footer) if random.random() < 0.9 else random.choice(INTEGERS) % 2**32
    return data[: -8 - length] + footer + size.to_bytes(4, "little") + data[-4:]


def _image(data, random):
    """Changes an image's size, with a checksum that is right, or its bytes."""
    if data[:4] != b"\x89PNG" or random.random() < 0.6:
        return _bytes(data, random)
    side = random.choice((0, 1, 7, 2**15, 2**31 - 1, 2**31, 2**32 - 1))
    width, height = random.choice(((side, side), (side, 8), (8, side)))
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    if random.random() < 0.3:
        header = header[:12] + bytes(
            (random.choice((1, 2, 4, 8, 16, 3)), random.randrange(8), 0, 0, 1)
        )
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


_FORMS: dict[str, Callable[[bytes, Random], bytes]] = {
    "json": _json,
    "text": _text,
    "xml": _xml,
    "bytes": _bytes,
    "image": _image,
    "npy": _npy,
    "zip": _zip,
    "safetensors": _safetensors,
    "parquet": _parquet,
}
