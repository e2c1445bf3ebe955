"""Bodies of V2 and V1 that no well-meant client sends."""

import base64
import json
import struct

import numpy as np

from tests.support.wire import (
    http,
    image,
    infer,
    named,
    pixels,
    tensor,
)


def documents():
    good = json.dumps(tensor()).encode()
    many = list(range(256)) * 4
    texts = [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"{",
        b"{}",
        good[:-1],
        good[: len(good) // 2],
        good + b"}",
        b"\0" * 50,
    ]
    texts += [
        good.replace(b"[1, 28", b"[" + value + b", 28")
        for value in (b"NaN", b"Infinity", b"-1", b"1e400", b"0", b"1.0")
    ]
    texts += [
        good.replace(b'"data": [', b'"data": [' + value + b", ")
        for value in (b"NaN", b"-Infinity", b"1e999", b'"1"', b"{}")
    ]
    texts += [
        b'{"inputs": [], ' + good[1:],
        good[:-1] + b', "inputs": []}',
        good[:-1] + b', "id": 1}',
    ]
    texts += [b"[" * n for n in (10, 1_000, 100_000, 4_000_000)] + [
        b'{"a":' * n for n in (10, 1_000, 100_000, 2_000_000)
    ]
    texts += [b'{"inputs": ' + b"[" * n + b"]" * n + b"}" for n in (5, 500, 50_000)]
    texts += [
        b'{"inputs": [' + b"1," * 4_000_000 + b"1]}",
        b'{"inputs": "' + b"x" * 8_000_000 + b'"}',
        b"9" * 5_000_000,
    ]
    texts += [
        json.dumps(tensor()).encode(kind) for kind in ("utf-16-be", "utf-16", "utf-32", "cp037")
    ]
    texts += [
        '{"inputs": "\ud800"}'.encode("utf-8", "surrogatepass"),
        b'{"id": "\\ud800", ' + good[1:],
    ]
    changes = [
        {"name": value}
        for value in ("", "pixels", "x" * 100_000, 7, None, ["images"], "images\0", "../images")
    ]
    changes += [
        {"datatype": value}
        for value in ("FP32", "INT8", "BYTES", "uint8", "", None, 3, "UINT64", "FP16", "BOOL")
    ]
    shapes = [
        None,
        28,
        [],
        [28, 28, 1],
        [1, 28, 28],
        [1, 28, 28, 3],
        [1, 1, 28, 28],
        [2, 28, 28, 1],
        [1, 28, 28, 1, 1],
    ]
    shapes += [
        [0, 28, 28, 1],
        [-1, 28, 28, 1],
        [-1, -28, 28, 1],
        [1, 2**63, 28, 1],
        [2**31, 2**31, 2**31, 2**31],
        ["1", 28, 28, 1],
    ]
    shapes += [
        [1.0, 28, 28, 1],
        [True, 28, 28, 1],
        [None] * 4,
        [[1, 28, 28, 1]],
        [1, 27, 29, 1],
        [1, 14, 56, 1],
        [784],
        [1] * 10_000,
    ]
    changes += [{"shape": value} for value in shapes]
    data = [
        None,
        [],
        [0] * 783,
        [0] * 785,
        [256] * 784,
        [-1] * 784,
        [0.5] * 784,
        ["0"] * 784,
        [None] * 784,
        [[0]] * 784,
    ]
    data += [
        {},
        "x" * 784,
        5,
        [[[[[0]]]]],
        [[0] * 28] * 27,
        [[0] * 28, 5],
        [10**300] * 784,
        [{"a": 1}] * 784,
        many,
    ]
    changes += [{"data": value} for value in data]
    changes += [
        {"parameters": value}
        for value in (
            [],
            1,
            {"binary_data_size": 784},
            {"binary_data_size": -1},
            {"binary_data_size": "9"},
        )
    ]
    documents = [tensor(**change) for change in changes]
    documents += [
        {"inputs": tensor()["inputs"] * 2},
        {"inputs": tensor()["inputs"] * 1_000},
        {"inputs": {}},
        {"inputs": None},
    ]
    outputs = [
        1,
        {},
        [1],
        [{}],
        [{"name": 1}],
        [{"name": "x"}],
        [{"name": "scores"}] * 2,
        [{"name": "scores"}] * 1_000,
    ]
    outputs += [
        [{"name": "probabilities", "parameters": {"classification": value}}]
        for value in (-1, 2**70, "2", 1.5, True)
    ]
    outputs += [
        [{"name": "labels", "parameters": value}]
        for value in ({"classification": 2}, {"binary_data": 1}, [], "x")
    ]
    documents += [tensor() | {"outputs": value} for value in outputs]
    parameters = [
        [],
        1,
        *({"top_k": value} for value in (0, -1, 10**9, 10**30, "5", 2.5, True, None, [])),
        {"binary_data_output": "x"},
    ]
    documents += [tensor() | {"parameters": value} for value in parameters]
    documents += [tensor() | {"id": value} for value in (1, None, [], "x" * 10_000, "ü\n")]
    return named("document", [infer(value) for value in (*texts, *documents)])


def binary():
    raw = pixels().tobytes()
    entry = {
        "name": "images",
        "datatype": "UINT8",
        "shape": [1, 28, 28, 1],
        "parameters": {"binary_data_size": 784},
    }
    head = {"inputs": [entry]}
    sizes = (0, 1, 783, 785, -1, -784, 2**31, 2**63, 2**64, "784", 784.0, True, None, [784])
    requests = [
        infer({"inputs": [entry | {"parameters": {"binary_data_size": size}}]}, raw)
        for size in sizes
    ]
    lengths = (
        "-1",
        "0",
        "1",
        "99999999",
        "9" * 100,
        "abc",
        "",
        "1e2",
        "0x10",
        "+5",
        " ",
        "1,2",
        "10 20",
        "\xb2",
    )
    requests += [infer(head, raw, length) for length in lengths]
    requests += [infer(head, more) for more in (raw[:-1], raw + b"\0", raw * 2, b"\0")]
    requests += [
        infer(head | {"inputs": [entry | {"data": [1]}]}, raw),
        infer({"inputs": [entry, entry]}, raw * 2),
    ]
    requests += [
        infer({"inputs": [entry | {"shape": shape}]}, raw)
        for shape in ([784], [4, 14, 14, 1], [1, 28, 28, 2], [0, 0, 0, 0])
    ]
    floats = np.full((1, 28, 28, 1), np.nan, np.float32).tobytes()
    for kind in ("FP32", "UINT8", "INT32"):
        mistyped = entry | {"datatype": kind, "parameters": {"binary_data_size": len(floats)}}
        requests.append(infer({"inputs": [mistyped]}, floats))
    requests += [
        infer(
            {
                "inputs": [
                    entry | {"shape": [100, 28, 28, 1], "parameters": {"binary_data_size": 78_400}}
                ]
            },
            raw * 100,
        )
    ]
    return named("binary", requests)


def texts():
    """Tensors of BYTES whose lengths lie."""
    good = image()

    def text_request(raw, shape=(1,), **changes):
        entry = {
            "name": "image",
            "datatype": "BYTES",
            "shape": list(shape),
            "parameters": {"binary_data_size": len(raw)},
        }
        return infer({"inputs": [entry | changes]}, raw)

    def pack(*texts, add=0):
        return b"".join(struct.pack("<I", (len(text) + add) % 2**32) + text for text in texts)

    raws = [
        b"\0",
        b"\xff" * 4,
        b"\xff" * 400,
        pack(good, add=1),
        pack(good, add=-1),
        pack(good, add=2**31),
        good,
    ]
    raws += [
        pack(good) + b"\0",
        pack(good)[:-1],
        pack(b""),
        pack(b"x"),
        pack(good, good),
        struct.pack(">I", len(good)) + good,
    ]
    requests = [text_request(raw) for raw in raws]
    requests += [text_request(pack(*[b""] * n), (n,)) for n in (2, 64, 65, 100_000, 1_000_000)]
    requests += [
        text_request(pack(good), shape) for shape in ((2,), (0,), (-1,), (1, 1, 1), (), (2**40,))
    ]
    requests += [
        text_request(pack(*[good] * 65), (65,)),
        text_request(pack(good, b"broken"), (2,)),
        text_request(pack(good), (1,), datatype="UINT8"),
    ]
    texts = [
        "",
        "?",
        "A",
        "A===",
        "\n",
        "ü",
        base64.b64encode(b"no image").decode(),
        base64.b64encode(good).decode()[:-60],
        5,
    ]
    texts += [
        None,
        [],
        {},
        "data:image/png," + base64.b64encode(good).decode(),
        "/etc/passwd",
        "file:///etc/passwd",
    ]
    texts += ["http://127.0.0.1/", "A" * 1_000_001]
    entry = {"name": "image", "datatype": "BYTES", "shape": [1]}
    requests += [infer({"inputs": [entry | {"data": [text]}]}) for text in texts]
    return named("texts", requests)


def v1():
    text = base64.b64encode(image()).decode()
    rows = pixels()[0].tolist()
    instances = [
        None,
        [],
        {},
        "x",
        5,
        [None],
        [5],
        ["x"],
        [[]],
        [{}],
        [{"b64": 5}],
        [{"b64": ""}],
        [{"b64": "?"}],
        [[[[]]]],
    ]
    instances += [
        [{"b64": text}, 5],
        [rows, 5],
        [rows, rows[:-1]],
        [rows[0]],
        [[[0.5]]],
        [[[[256]]]],
        [{"image": text}],
    ]
    instances += [
        [{"b64": text}] * 65,
        [{"b64": text[:-200]}],
        [{"b64": base64.b64encode(b"GIF89a").decode()}],
        [[[[[1]]]]],
    ]
    documents = [{"instances": value} for value in instances]
    documents += [
        {"instances": [{"b64": text}], "parameters": value}
        for value in ({"top_k": 0}, {"top_k": "1"}, [], 5)
    ]
    documents += [{}, {"inputs": [text]}, {"instances": [rows], "parameters": {"top_k": 10**20}}]
    bodies = [json.dumps(value).encode() for value in documents] + [
        b"",
        b"{",
        b"[" * 200_000,
        b'{"instances": [NaN]}',
    ]
    path = "/v1/models/tiny:predict"
    requests = [http("POST", path, body) for body in bodies]
    good = json.dumps({"instances": [{"b64": text}]}).encode()
    for path in (
        "tiny",
        "tiny:explain",
        "tiny:predict:predict",
        "nope:predict",
        "tiny/versions/9:predict",
        ":predict",
    ):
        requests.append(http("POST", f"/v1/models/{path}", good))
    return named("v1", requests)
