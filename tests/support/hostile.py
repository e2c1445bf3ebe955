"""Requests that no well-meant client sends: chosen ones, and ones made at random from a seed."""

import concurrent.futures
import http.client
import json
import random
import urllib.parse

import numpy as np

from tests.support import hostile_bodies, hostile_heads, hostile_images
from tests.support.wire import (
    ANY,
    CLOSED,
    FORMATS,
    KEY,
    OFFERS,
    Case,
    classify,
    image,
    infer,
    is_right,
    pixels,
    send,
    tensor,
)
from vision.bundle.directory import open_bundle


def chosen():
    """Returns the cases that have a thought behind each."""
    groups = (
        hostile_bodies.documents,
        hostile_bodies.binary,
        hostile_bodies.texts,
        hostile_bodies.v1,
        hostile_images.images,
        hostile_images.bombs,
        hostile_images.parts,
        hostile_images.forms,
        hostile_heads.queries,
        hostile_heads.paths,
        hostile_heads.methods,
        hostile_heads.keys,
        hostile_heads.heads,
        hostile_heads.offers,
        hostile_heads.slow,
    )
    return [case for group in groups for case in group()]


def fuzzed(count, seed=0):
    """Returns `count` cases made from good requests by changes at random."""
    dice = random.Random(seed)
    entry = {
        "name": "images",
        "datatype": "UINT8",
        "shape": [1, 28, 28, 1],
        "parameters": {"binary_data_size": 784},
    }
    document = json.dumps({"inputs": [entry]}).encode()
    raw = pixels().tobytes()
    encoded = [image(kind, seed=1) for kind in FORMATS]
    small = json.dumps(
        tensor(data=pixels().tolist())
        | {"id": "x", "outputs": [{"name": "scores"}], "parameters": {"top_k": 3}}
    )
    cases = []
    for i in range(count):
        kind = i % 5
        if kind < 2:
            body = _change(encoded[i // 5 % len(encoded)], dice)
            request = classify(body)
            expected = ANY
        elif kind == 2:
            request = infer(_change(small.encode(), dice))
            expected = ANY
        elif kind == 3:
            request = infer(
                _change(document, dice), _change(raw, dice) if dice.random() < 0.3 else raw
            )
            expected = ANY
        else:
            good = infer(document, raw)
            if i % 2:
                lines = "".join(f"{k}: {v}\r\n" for k, v in OFFERS[i // 10 % 3].items()).encode()
                good = good.replace(b"Host:", lines + b"Host:", 1)
            end = good.index(b"\r\n\r\n") + 4
            request = _change(good[:end], dice) + good[end:]
            expected = CLOSED
        cases.append(Case(f"fuzzed {seed}/{i}", (request,), expected))
    return cases


def ask_well(url, images):
    """Returns the probabilities that the server gives of images."""
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    entry = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    entry["parameters"] = {"binary_data_size": images.nbytes}
    head = json.dumps({"inputs": [entry], "outputs": [{"name": "probabilities"}]}).encode()
    fields = {"X-Api-Key": KEY, "Inference-Header-Content-Length": str(len(head))}
    connection.request("POST", "/v2/models/tiny/infer", head + images.tobytes(), fields)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    assert answer.status == 200, document
    return np.reshape(document["outputs"][0]["data"], (len(images), -1))


def run(live, bundle, cases, threads=4):
    """Sends the cases, with a good request after each.

    Args:
        live: `tests.support.live_server.Live` that serves the bundle as the model "tiny".
        bundle: the bundle's directory.
        cases: list of `Case`.
        threads: threads that send at a time.

    Returns:
        [(name, status, end of the request)] of the cases whose status was wrong.
    """
    url = urllib.parse.urlsplit(live.url)
    images = pixels(count=2)
    expected, _ = open_bundle(bundle, threads=1).probabilities_and_embeddings(images)

    def check(case):
        status = send((url.hostname, url.port), case)
        np.testing.assert_allclose(ask_well(url, images), expected, atol=1e-6, err_msg=case.name)
        return case, status

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        statuses = list(pool.map(check, cases))
    assert live.process.poll() is None
    return [
        (case.name, status, case.parts[0][-300:])
        for case, status in statuses
        if not is_right(case, status)
    ]


def changed(messages, count, seed=0):
    """Returns `count` of the messages, bytes each, changed at random."""
    dice = random.Random(seed)
    return [_change(messages[i % len(messages)], dice) for i in range(count)]


def _change(data, dice):
    """Returns bytes with one to eight changes: bits, bytes, cuts, repeats and what breaks
    parsers."""
    data = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        at = dice.randrange(len(data) + 1)
        length = min(dice.choice((1, 1, 2, 4, 16)), len(data) - at)
        match dice.randrange(6):
            case 0 if length:
                data[at] ^= 1 << dice.randrange(8)
            case 1:
                data[at : at + length] = dice.randbytes(length)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at : at + length] = dice.choice(
                    (b"\0", b"\xff" * 4, b"-1", b"9" * 20, b"[", b'"', b"\r\n", b"NaN", b"\\u")
                )
            case 5 if dice.random() < 0.2:
                del data[at:]
    return bytes(data)
