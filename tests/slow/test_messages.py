"""Hundreds of large messages by gRPC: the server's memory stays where it was after the first
ones."""

import pathlib

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests.support import wire
from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle

SIZE = 15_000_000  # bytes of a message
CALLS = 150
ROOM = 150  # MiB, of the 2,100 that they have together: what the allocator keeps


@pytest.fixture  # a server for each: what one has freed, the next one would use
def live(tmp_path):
    write_bundle(tmp_path / "tiny" / "1", side=28)
    with serve(tmp_path) as server:
        yield server


def resident(live):
    """Returns MiB."""
    lines = pathlib.Path(f"/proc/{live.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def pixels(side):
    """Returns the bytes of a request of many images, gray, by their pixels."""
    images = np.zeros((SIZE // side**2, side, side, 1), np.uint8)
    inputs = [{"name": "images", "datatype": "UINT8", "shape": images.shape}]
    request = service_pb2.ModelInferRequest(
        model_name="tiny", inputs=inputs, raw_input_contents=[images.tobytes()]
    )
    return request.SerializeToString()


def encoded():
    """Returns the bytes of a request of 61 encoded images."""
    image = wire.image("BMP", size=(320, 256))
    texts = [len(image).to_bytes(4, "little") + image] * (SIZE // (len(image) + 4))
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [len(texts)]}]
    request = service_pb2.ModelInferRequest(
        model_name="tiny", inputs=inputs, raw_input_contents=[b"".join(texts)]
    )
    return request.SerializeToString()


@pytest.mark.parametrize(
    ("method", "data", "code"),
    [
        ("ModelInfer", encoded(), "OK"),
        ("ModelInfer", pixels(500), "INVALID_ARGUMENT"),
        ("ModelInfer", pixels(28), "RESOURCE_EXHAUSTED"),
        ("ModelInfer", b"\x2a\x00" * (SIZE // 2), "INVALID_ARGUMENT"),
        ("ServerLive", pixels(28), "RESOURCE_EXHAUSTED"),
    ],
    ids=["answered", "another shape", "too many images", "very many fields", "live"],
)
def test_large_messages_leave_nothing_behind(live, method, data, code):
    with grpc.insecure_channel(live.grpc, [("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")

        def ask():
            try:
                call(data, timeout=20)
                return "OK"
            except grpc.RpcError as error:
                return error.code().name

        assert [ask() for _ in range(20)] == [code] * 20  # these may grow what the allocator keeps
        before = resident(live)
        assert [ask() for _ in range(CALLS)] == [code] * CALLS
        growth = resident(live) - before
    print(f"{method}: grew by {growth:.0f} MiB")
    assert growth < ROOM
