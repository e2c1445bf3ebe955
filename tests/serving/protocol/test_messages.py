"""gRPC messages as bytes: which are parsed, how long it takes, and what remains of them."""

import asyncio
import dataclasses
import gc
import io
import threading
import time
import tracemalloc

import grpc
import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2

from tests.serving.served import SETTINGS, code_of, is_logged, message, pixels
from tests.support.tiny_bundle import write_bundle
from vision.serving import limits, rpc
from vision.serving.errors import Refused, TooLarge
from vision.serving.protocol import messages
from vision.serving.protocol.json_io import MAX_JSON_ITEMS

SIZE = 900_000  # bytes of a large message
CALLS = 8


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    write_bundle(directory / "tiny" / "1")
    return directory


def field(number, content):
    """Returns the bytes of a field that has its size before it."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number):
    encoded = b""
    while number > 127:
        encoded = encoded + bytes([number & 127 | 128])
        number = number >> 7
    return encoded + bytes([number])


NAME = field(1, b"images")
RAW = field(7, bytes(SIZE))
TINY = field(1, b"tiny")


def contents(number, data):
    """Returns the bytes of a message whose input has contents of a kind."""
    return TINY + field(5, NAME + field(2, b"UINT8") + field(5, field(number, data)))


def entries(count):
    """Returns the bytes of parameters of an input, each with a name of its own."""
    return b"".join(field(4, field(1, b"%d" % i)) for i in range(count))


HOSTILE = {
    "empty inputs": (b"\x2a\x00" * 2_000_000, "320 fields"),
    "empty parameters": (b"\x22\x00" * 2_000_000, "320 fields"),
    "empty parameters of an input": (field(5, b"\x22\x00" * 2_000_000), "320 fields"),
    "parameters of an input": (field(5, entries(100_000)), "320 fields"),
    "empty parameters of an output": (
        field(6, NAME + b"\x12\x00" * 2_000_000),
        "65,536 bytes besides its images",
    ),
    "shape": (field(5, NAME + field(3, b"\x01" * 4_000_000)), "65,536 bytes besides its images"),
    "empty texts": (field(5, field(5, b"\x42\x00" * 2_000_000)), "320 fields"),
    "numbers": (contents(4, b"\0" * 4_000_000), "contents has more than 2,000,000 numbers"),
    "numbers, one a field": (field(5, field(5, b"\x20\x00" * 2_000_000)), "320 fields"),
    "numbers in two contents": (
        contents(4, b"\0" * 1_100_000) * 2,
        "contents has more than 2,000,000 numbers",
    ),
    "numbers of another kind": (contents(3, b"\0" * 4_000_000), "65,536 bytes besides its images"),
    "beside raw contents": (
        message(raw_input_contents=[]).SerializeToString() + RAW + contents(2, b"\0" * 70_000),
        "65",
    ),
    "a field that nobody knows": (
        field(1999, b"\x0b" * 4_000_000),
        "65,536 bytes besides its images",
    ),
    "groups": (field(5, NAME + b"\xc3\x3e\xc4\x3e" * 1_000_000), "is broken"),
    "cut short": (RAW[:-1], "is broken"),
    "cut short within": (field(5, field(5, bytes(100))[:-1]) + RAW, "is broken"),
    "a size without end": (b"\x2a" + b"\xff" * 4_000_000, "is broken"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_hold_up_others_is_refused_soon(name):
    data, words = HOSTILE[name]
    begun = time.process_time()
    with pytest.raises(Refused, match=words):
        messages.check(data, messages.INFER, messages.FIELDS + 64)
    assert time.process_time() - begun < 0.1
    tracemalloc.start()
    try:
        with pytest.raises(Refused):
            messages.check(data, messages.INFER, messages.FIELDS + 64)
        # a byte for each of some numbers
        assert tracemalloc.get_traced_memory()[1] < len(data) + 10_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        contents(4, b"\0" * MAX_JSON_ITEMS),
        contents(4, b"\xff\x01" * MAX_JSON_ITEMS),
        field(5, field(3, b"\x01" * 65_000)),
        field(6, b"\x12\x00" * 32_000),
        field(4, field(1, b"a") + field(2, field(3, b"b" * 65_000))),
        b"\x2a\x00" * 320,
        RAW * 16,
    ],
    ids=[
        "numbers",
        "numbers of two bytes",
        "shape",
        "empty parameters",
        "a long parameter",
        "inputs",
        "raw",
    ],
)
def test_the_most_that_is_parsed_is_parsed_soon(data):
    messages.check(data, messages.INFER, messages.FIELDS + 64)
    begun = time.process_time()
    service_pb2.ModelInferRequest.FromString(data)
    # a hundredth to a fiftieth on a machine that does nothing else
    assert time.process_time() - begun < 0.2


def test_images_in_every_form_are_let_through():
    image = pixels(64)
    texts = [b"a" * 10_000] * 64
    for typed in ({"uint_contents": image.ravel()}, {"bytes_contents": texts}):
        inputs = [
            {"name": "images", "datatype": "UINT8", "shape": [64, 8, 8, 1], "contents": typed}
        ]
        data = message(inputs=inputs, raw_input_contents=[]).SerializeToString()
        messages.check(data, messages.INFER, messages.FIELDS + 64)
    messages.check(message(raw_input_contents=[bytes(SIZE)]).SerializeToString(), messages.INFER)


def test_other_messages_have_no_images():
    for data in (RAW, contents(4, bytes(70_000)), field(1, b"a" * 65_536)):
        with pytest.raises(TooLarge, match="besides its images"):
            messages.check(data, {})
    messages.check(
        service_pb2.ModelMetadataRequest(name="tiny", version="1").SerializeToString(), {}
    )
    messages.check(b"", {})


def test_bytes_at_random_are_parsed_or_refused():
    random = np.random.default_rng(0)
    tensor = {
        "name": "images",
        "datatype": "UINT8",
        "shape": [1, 8, 8, 1],
        "contents": {"uint_contents": range(200)},
    }
    good = message(inputs=[tensor], parameters={"top_k": {"int64_param": 3}}).SerializeToString()
    refused = 0
    for _ in range(3_000):
        data = bytearray(good)
        for at in random.integers(len(data), size=3):
            data[at] = random.integers(256)
        try:
            messages.check(bytes(data), messages.INFER)
        except Refused:
            refused += 1
    assert 300 < refused < 2_900


async def broken(request):
    raise ValueError("an error of ours")


async def late(request):
    await asyncio.sleep(1)


def bmp(side=900):
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "BMP")
    return file.getvalue()


def of_text(text):
    """Returns the bytes of a request of one encoded image."""
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [1]}]
    return message(
        inputs=inputs, raw_input_contents=[len(text).to_bytes(4, "little") + text]
    ).SerializeToString()


@pytest.mark.parametrize(
    ("method", "data", "classify", "code"),
    [
        ("ModelInfer", of_text(bmp()), None, "OK"),
        (
            "ModelInfer",
            message(raw_input_contents=[bytes(SIZE)]).SerializeToString(),
            None,
            "INVALID_ARGUMENT",
        ),
        ("ModelInfer", RAW + b"\x2a\x00" * 400, None, "INVALID_ARGUMENT"),
        ("ModelInfer", RAW + b"\x0a\x01\xff", None, "INVALID_ARGUMENT"),
        ("ModelInfer", of_text(bytes(SIZE)), None, "INVALID_ARGUMENT"),
        ("ModelInfer", of_text(bytes(SIZE)), broken, "INTERNAL"),
        ("ModelInfer", of_text(bytes(SIZE)), late, "UNAVAILABLE"),
        ("ServerLive", RAW, None, "RESOURCE_EXHAUSTED"),
    ],
    ids=[
        "answered",
        "no tensor",
        "many fields",
        "not parsed",
        "no image",
        "broken",
        "late",
        "live",
    ],
)
def test_nothing_of_a_message_is_left_when_its_call_has_ended(
    served, channel, monkeypatch, method, data, classify, code
):
    """Not even until the garbage collector runs, which is seldom: a message may have 16 MB."""
    monkeypatch.setattr(
        served.calls,
        "_settings",
        dataclasses.replace(served.settings, timeout=0.05 if classify else 5),
    )
    if classify:
        monkeypatch.setattr(served.service, "classify", classify)
    call = channel.unary_unary(f"/{rpc.SERVICE}/{method}")

    def ask():
        if code == "OK":
            call(data)
        else:
            assert code_of(call, data)[0] == code

    assert left_after(ask) < 2 * len(data)


def test_nothing_is_left_of_a_call_whose_client_went_away(served, stub, monkeypatch):
    begun = threading.Event()

    async def slow(request):
        begun.set()
        await asyncio.sleep(30)

    monkeypatch.setattr(served.service, "classify", slow)
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [1]}]
    text = SIZE.to_bytes(4, "little") + bytes(SIZE)

    def ask():
        served.entries.clear()
        begun.clear()
        call = stub.ModelInfer.future(message(inputs=inputs, raw_input_contents=[text]))
        assert begun.wait(5)
        call.cancel()
        assert is_logged(served, "CANCELLED")

    assert left_after(ask) < 2 * SIZE


def left_after(ask):
    """Returns the additional bytes in use after some calls, without the garbage collector."""
    ask()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(CALLS):
            ask()
        for _ in range(500):  # the client hears of it first
            if (in_use := tracemalloc.get_traced_memory()[0]) < SIZE:
                break
            time.sleep(0.01)
        return in_use
    finally:
        tracemalloc.stop()
        gc.enable()


def test_bytes_that_are_no_message(served):
    random = np.random.default_rng(0)
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        for method in ("ModelInfer", "ModelMetadata", "ServerReady"):
            call = channel.unary_unary(f"/{rpc.SERVICE}/{method}")
            # cut short, a group, a long number
            for data in (b"\xff\xff\xff", b"\x0b", b"\x12\x05a", b"\xff" * 20):
                assert code_of(call, data)[:2] == ("INVALID_ARGUMENT", "the message is broken")
        for method in ("ModelInfer", "ModelMetadata"):
            call = channel.unary_unary(f"/{rpc.SERVICE}/{method}")
            code, details, _ = code_of(call, b"\x0a\x01\xff")  # a text that is no UTF-8
            assert (
                code == "INVALID_ARGUMENT"
                and details == f"the message is not a valid {method}Request"
            )
        call = channel.unary_unary(f"/{rpc.SERVICE}/ModelInfer")
        good = message().SerializeToString()
        for _ in range(200):  # one byte of a good one is another
            data = bytearray(good)
            data[random.integers(len(data))] = random.integers(256)
            try:
                call(bytes(data))
            except grpc.RpcError as error:
                assert error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND"), error.details()


def test_a_message_of_very_many_parts_is_not_parsed(served, stub, monkeypatch):
    """A million empty tensors are two megabytes on the way, and ninety in memory."""
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        call = channel.unary_unary(f"/{rpc.SERVICE}/ModelInfer")
        code, details, _ = code_of(call, b"\x2a\x00" * 400_000)  # inputs
        assert (code, details) == ("INVALID_ARGUMENT", "the message has more than 2368 fields")
        call = channel.unary_unary(f"/{rpc.SERVICE}/ModelMetadata")
        assert code_of(call, b"\x0a\x82\x80\x04" + b"a" * 65_538)[0] == "RESOURCE_EXHAUSTED"


def test_a_message_that_does_not_come_is_not_waited_for(served, monkeypatch):
    monkeypatch.setattr(served.calls, "_settings", dataclasses.replace(SETTINGS, body_timeout=0.2))
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        call = channel.stream_unary(f"/{rpc.SERVICE}/ModelInfer")
        never = threading.Event()

        def messages():
            never.wait(10)
            yield b""

        begun = time.monotonic()
        code, details, _ = code_of(call, messages())
        never.set()
        assert code == "DEADLINE_EXCEEDED" and "did not arrive within 0.2 seconds" in details
        assert time.monotonic() - begun < 5
        assert code_of(call, iter(()))[:2] == ("INVALID_ARGUMENT", "the call has no message")


def test_large_messages_have_a_limit_together(served, stub, monkeypatch):
    monkeypatch.setattr(limits, "BODIES", 0)
    stub.ModelInfer(message())  # a small one is let in
    monkeypatch.setattr(limits, "SMALL", 0)
    code, details, trailer = code_of(stub.ModelInfer, message())
    assert (
        code == "RESOURCE_EXHAUSTED"
        and "too many large requests" in details
        and trailer["retry-after"] == "1"
    )
    monkeypatch.undo()
    stub.ModelInfer(message())


def test_a_message_that_is_too_large(stub):
    count = 2_000_000 // 64
    tensor = {"name": "images", "datatype": "UINT8", "shape": [count, 8, 8, 1]}
    large = message(inputs=[tensor], raw_input_contents=[bytes(count * 64)])
    assert code_of(stub.ModelInfer, large)[0] == "RESOURCE_EXHAUSTED"
