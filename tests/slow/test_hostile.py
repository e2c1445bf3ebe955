"""Thousands of hostile requests over real sockets: each is refused, and the next good one is
answered right."""

import collections
import pathlib
import subprocess
import sys

import grpc
import pytest
from tritonclient.grpc import service_pb2

from tests.support import hostile, wire
from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle

FUZZED = 1_500
# MiB that the server may grow by: eight bodies of the largest size, and what they are read into
# A schema cannot say that a tensor's data fits its shape, nor that bytes are an image.
ROOM = 400
SCHEMATHESIS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 404, 413, 415, 429]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    write_bundle(models / "tiny" / "1", side=28)
    return models


def resident(live):
    """Returns MiB."""
    lines = pathlib.Path(f"/proc/{live.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def test_hostile_requests(models, tmp_path):
    (tmp_path / "keys").write_text(f"tester {wire.KEY}\n")
    chosen = hostile.chosen()
    fuzzed = hostile.fuzzed(FUZZED)
    assert len(chosen) + len(fuzzed) >= 2_000
    with serve(models, keys=tmp_path / "keys", body_timeout=1.5, grpc_port=0) as live:
        before = resident(live)
        assert hostile.run(live, models / "tiny" / "1", chosen) == []
        assert hostile.run(live, models / "tiny" / "1", fuzzed) == []
        assert resident(live) - before < ROOM


def test_hostile_messages(models, tmp_path):
    """The same over gRPC: messages that are changed at random, and those of no kind."""
    (tmp_path / "keys").write_text(f"tester {wire.KEY}\n")
    entry = service_pb2.ModelInferRequest.InferInputTensor
    pixels = wire.pixels()
    encoded = wire.image()
    raw = service_pb2.ModelInferRequest(model_name="tiny", raw_input_contents=[pixels.tobytes()])
    raw.inputs.append(entry(name="images", datatype="UINT8", shape=pixels.shape))
    typed = service_pb2.ModelInferRequest(model_name="tiny", id="x")
    typed.inputs.append(
        entry(name="image", datatype="BYTES", shape=[1], contents={"bytes_contents": [encoded]})
    )
    typed.parameters["top_k"].int64_param = 3
    messages = hostile.changed([raw.SerializeToString(), typed.SerializeToString()], 500)
    messages += [b"", b"\0", b"\xff" * 1_000, b"\n\x04tiny" * 10_000, pixels.tobytes()]
    codes = collections.Counter()
    with serve(models, keys=tmp_path / "keys") as live, grpc.insecure_channel(live.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        metadata = [("x-api-key", wire.KEY)]
        for message in messages:
            try:
                call(message, metadata=metadata, timeout=20)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
                assert "Traceback" not in error.details()
            assert service_pb2.ModelInferResponse.FromString(
                call(raw.SerializeToString(), metadata=metadata)
            ).outputs
        assert live.process.poll() is None
    assert codes.keys() <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
    assert codes["INVALID_ARGUMENT"] > 100


def test_schemathesis_finds_nothing(models, tmp_path):
    pytest.importorskip("schemathesis")
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS)
    with serve(models, grpc_port=0) as live:
        options = ["--max-examples=30", "--seed=1", "--no-color"]
        program = pathlib.Path(sys.executable).with_name("schemathesis")
        command = [
            program,
            "--config-file",
            tmp_path / "schemathesis.toml",
            "run",
            f"{live.url}/openapi.json",
            *options,
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-5_000:] + done.stderr
