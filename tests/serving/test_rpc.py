"""gRPC, by Triton's own client and by messages that no client would send."""

import asyncio
import dataclasses
import io
import json
import subprocess
import threading
import tracemalloc

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.serving.served import SETTINGS, Served, code_of, is_logged, message, pixels
from tests.support.tiny_bundle import write_bundle
from vision.bundle.directory import open_bundle
from vision.errors import UserError
from vision.serving import rpc
from vision.serving.errors import Refused


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    write_bundle(directory / "tiny" / "1")
    write_bundle(directory / "tiny" / "2")
    return directory


@pytest.fixture(scope="module")
def bundle(models):
    return open_bundle(models / "tiny" / "2")


@pytest.fixture
def client(served):
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        yield client


def png(image):
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "PNG")
    return file.getvalue()


def tensor(name, array, kind):
    infer_input = triton.InferInput(name, list(array.shape), kind)
    infer_input.set_data_from_numpy(array)
    return infer_input


def of_images(images):
    return tensor("images", images, "UINT8")


def test_health(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("tiny") and client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "3") and not client.is_model_ready("huge")


def test_metadata(client):
    assert client.get_server_metadata().name == "vision"
    metadata = client.get_model_metadata("tiny", as_json=True)
    assert (
        metadata["name"] == "tiny"
        and metadata["versions"] == ["1", "2"]
        and metadata["platform"] == "onnxruntime_onnx"
    )
    assert metadata["inputs"][0] == {
        "name": "images",
        "datatype": "UINT8",
        "shape": ["-1", "8", "8", "1"],
    }
    assert [output["name"] for output in metadata["outputs"]] == [
        "labels",
        "scores",
        "probabilities",
        "embedding",
    ]


def test_pixels_in_labels_and_scores_out(client, bundle):
    images = pixels()
    result = client.infer("tiny", [of_images(images)], request_id="mine")
    probabilities, _ = bundle.probabilities_and_embeddings(images)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    assert result.as_numpy("labels").astype(str).tolist() == [
        [bundle.classes[i] for i in row] for row in best
    ]
    assert np.allclose(
        result.as_numpy("scores"), np.take_along_axis(probabilities, best, 1), atol=1e-6
    )
    assert result.get_response().id == "mine"
    assert result.get_response().model_name == "tiny" and result.get_response().model_version == "2"


def test_a_call_that_names_no_output_gets_all_that_the_metadata_declares(client):
    response = client.infer("tiny", [of_images(pixels())]).get_response()
    declared = client.get_model_metadata("tiny").outputs
    assert [(output.name, output.datatype) for output in response.outputs] == [
        (output.name, output.datatype) for output in declared
    ]
    assert len(response.raw_output_contents) == len(declared) == 4


def test_every_output_by_name_of_a_version_by_name(client, bundle):
    images = pixels(2, seed=1)
    outputs = [triton.InferRequestedOutput(name) for name in ("embedding", "probabilities")]
    result = client.infer("tiny", [of_images(images)], model_version="1", outputs=outputs)
    probabilities, embedding = bundle.probabilities_and_embeddings(images)
    assert np.allclose(result.as_numpy("probabilities"), probabilities, atol=1e-6)
    assert np.allclose(result.as_numpy("embedding"), embedding, atol=1e-5)
    assert result.get_response().model_version == "1" and result.as_numpy("labels") is None


def test_tritons_classification_and_our_top_k(client, bundle):
    outputs = [
        triton.InferRequestedOutput("probabilities", class_count=3),
        triton.InferRequestedOutput("labels"),
    ]
    result = client.infer("tiny", [of_images(pixels(1))], outputs=outputs, parameters={"top_k": 2})
    texts = result.as_numpy("probabilities")
    assert texts.shape == (1, 3) and result.as_numpy("labels").shape == (1, 2)
    value, index, name = texts[0, 0].decode().split(":")
    assert (
        bundle.classes[int(index)] == name == result.as_numpy("labels")[0, 0].decode()
        and 0 < float(value) <= 1
    )


def test_encoded_images(client, bundle):
    images = pixels(2, seed=2)
    result = client.infer(
        "tiny", [tensor("image", np.array([png(i) for i in images], object), "BYTES")]
    )
    expected, _ = bundle.probabilities_and_embeddings(images)
    assert np.allclose(result.as_numpy("scores")[:, 0], expected.max(1), atol=1e-6)


def test_typed_contents_say_the_same_as_raw_ones(stub):
    image = pixels(1)
    raw = stub.ModelInfer(message())
    tensor = {
        "name": "images",
        "datatype": "UINT8",
        "shape": [1, 8, 8, 1],
        "contents": {"uint_contents": image.ravel()},
    }
    assert (
        stub.ModelInfer(message(inputs=[tensor], raw_input_contents=[])).raw_output_contents
        == raw.raw_output_contents
    )
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "contents": {"bytes_contents": [png(image[0])]},
    }
    assert (
        stub.ModelInfer(message(inputs=[tensor], raw_input_contents=[])).raw_output_contents
        == raw.raw_output_contents
    )


def test_metadata_of_a_call(served, stub):
    served.entries.clear()
    metadata = (("x-request-id", "abc-1"), ("x-route-key", "user 7"))
    _, call = stub.ModelInfer.with_call(message(), metadata=metadata)
    assert dict(call.trailing_metadata()) == {"x-request-id": "abc-1", "x-model-version": "2"}
    entry = served.entries[-1]
    assert json.loads(json.dumps(entry)) == entry
    assert (
        entry["id"] == "abc-1" and entry["protocol"] == "grpc" and entry["method"] == "ModelInfer"
    )
    assert (entry["model"], entry["version"], entry["code"]) == ("tiny", "2", "OK")
    assert entry["client"] == "127.0.0.1" and entry["images"] == 1
    assert entry["bytes"] > 64 and entry["sent"] > 0 and entry["seconds"] > 0


def test_an_id_that_no_log_could_hold_is_replaced(served, stub):
    _, call = stub.ModelInfer.with_call(message(), metadata=(("x-request-id", "a b " * 100),))
    assert len(dict(call.trailing_metadata())["x-request-id"]) == 16


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"model_name": "huge"}, "NOT_FOUND", "no model 'huge'"),
        ({"model_version": "9"}, "NOT_FOUND", "no loaded version '9'"),
        ({"model_name": "../tiny"}, "NOT_FOUND", "no model '../tiny'"),
        ({"inputs": []}, "INVALID_ARGUMENT", "raw_input_contents has 1 tensors, but inputs 0"),
        ({"inputs": [], "raw_input_contents": []}, "INVALID_ARGUMENT", "exactly one input"),
        ({"raw_input_contents": []}, "INVALID_ARGUMENT", "has 0 numbers, but its shape needs 64"),
        ({"raw_input_contents": [b"abc"]}, "INVALID_ARGUMENT", "has 3 numbers"),
        ({"raw_input_contents": [b""] * 2}, "INVALID_ARGUMENT", "has 2 tensors"),
        ({"outputs": [{"name": "secret"}]}, "INVALID_ARGUMENT", "no output 'secret'"),
        ({"outputs": [{"name": "labels"}] * 2}, "INVALID_ARGUMENT", "twice"),
        ({"parameters": {"top_k": {"int64_param": -1}}}, "INVALID_ARGUMENT", "top_k must be in"),
        ({"parameters": {"top_k": {"string_param": "5"}}}, "INVALID_ARGUMENT", "top_k"),
    ],
)
def test_what_is_wrong_with_a_request(stub, changes, code, words):
    status, details, trailer = code_of(stub.ModelInfer, message(**changes))
    assert status == code and words in details and trailer["x-request-id"]
    stub.ModelInfer(message())  # the next one is answered


@pytest.mark.parametrize(
    ("shape", "kind", "name"),
    [
        ([1, 8, 8], "UINT8", "images"),
        ([-1, 8, 8, 1], "UINT8", "images"),
        ([0, 8, 8, 1], "UINT8", "images"),
        ([2**62, 2**62, 4, 1], "UINT8", "images"),
        ([1, 8, 8, 1], "FP32", "images"),
        ([1, 4, 16, 1], "UINT8", "images"),
        ([1], "BYTES", "image"),
        ([1, 8, 8, 1], "", ""),
    ],
)
def test_tensors_that_are_none(stub, shape, kind, name):
    entry = {"name": name, "datatype": kind, "shape": shape}
    assert code_of(stub.ModelInfer, message(inputs=[entry]))[0] == "INVALID_ARGUMENT"
    shared = entry | {"parameters": {"shared_memory_region": {"string_param": "/dev/mem"}}}
    code, details, _ = code_of(stub.ModelInfer, message(inputs=[shared], raw_input_contents=[]))
    assert code == "INVALID_ARGUMENT" and "shared memory" in details


def test_a_shape_without_end_is_not_made_a_list_of():
    request = service_pb2.ModelInferRequest(raw_input_contents=[b"a"])
    request.inputs.add(name="images", datatype="UINT8").shape.extend([1] * 1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="must have the shape"):
            rpc._inference(request)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_what_is_of_triton_alone_is_not_here(client, stub):
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        client.get_model_repository_index()
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        client.unload_model("tiny")
    assert (
        code_of(stub.ModelConfig, service_pb2.ModelConfigRequest(name="tiny"))[0] == "UNIMPLEMENTED"
    )


def test_too_many_images(stub):
    entry = {"name": "images", "datatype": "UINT8", "shape": [65, 8, 8, 1]}
    code, details, _ = code_of(
        stub.ModelInfer, message(inputs=[entry], raw_input_contents=[bytes(65 * 64)])
    )
    assert code == "RESOURCE_EXHAUSTED" and "1 to 64" in details


def replace(served, monkeypatch, function):
    monkeypatch.setattr(served.service, "classify", function)


def test_a_full_queue_says_when_to_come_back(served, stub, monkeypatch):
    from vision.serving.errors import TooMany

    async def full(request):
        raise TooMany("the queue is full", 1.25)

    replace(served, monkeypatch, full)
    code, details, trailer = code_of(stub.ModelInfer, message())
    assert (code, details) == ("RESOURCE_EXHAUSTED", "the queue is full")
    assert trailer["retry-after"] == "2" and trailer["grpc-retry-pushback-ms"] == "1250"


def test_an_error_of_ours_tells_the_client_nothing(served, stub, monkeypatch, capsys):
    async def broken(request):
        raise ValueError("secret path")

    served.entries.clear()
    replace(served, monkeypatch, broken)
    assert code_of(stub.ModelInfer, message())[:2] == ("INTERNAL", "internal error")
    assert is_logged(served, "INTERNAL")
    assert "secret path" in capsys.readouterr().err
    assert (
        b'vision_requests_total{code="INTERNAL",model="tiny",protocol="grpc",version=""}'
        in (served.telemetry.exposition()[0])
    )


def test_what_takes_too_long_ends(served, stub, monkeypatch):
    async def slow(request):
        raise TimeoutError

    replace(served, monkeypatch, slow)
    code, details, trailer = code_of(stub.ModelInfer, message())
    assert code == "UNAVAILABLE" and "within 5 seconds" in details and trailer["retry-after"] == "1"


def test_a_client_that_went_away_is_noticed(served, stub, monkeypatch):
    canceled = threading.Event()
    begun = threading.Event()

    async def slow(request):
        begun.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            canceled.set()
            raise

    served.entries.clear()
    replace(served, monkeypatch, slow)
    call = stub.ModelInfer.future(message())
    assert begun.wait(5)
    call.cancel()
    assert canceled.wait(5)
    assert is_logged(served, "CANCELLED")


@pytest.fixture(scope="module")
def locked(models, tmp_path_factory):
    """A server that asks for keys and speaks TLS; returns (it, its certificate's bytes)."""
    directory = tmp_path_factory.mktemp("locked")
    (directory / "keys").write_text("anna key-of-anna\nbert key-of-bert 1\n")
    files = {
        "tls_certificate": str(directory / "certificate.pem"),
        "tls_key": str(directory / "key.pem"),
    }
    curve = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    out = ["-out", files["tls_certificate"], "-keyout", files["tls_key"]]
    subprocess.run(
        ["openssl", "req", "-x509", *curve, *names, *out], check=True, capture_output=True
    )
    server = Served(
        dataclasses.replace(SETTINGS, models=str(models), keys=str(directory / "keys"), **files)
    )
    yield server, (directory / "certificate.pem").read_bytes()
    server.close()


def test_keys_and_tls(locked, tmp_path):
    server, certificate = locked
    (tmp_path / "root.pem").write_bytes(certificate)
    address = f"localhost:{server.port}"
    images = [of_images(pixels(1))]
    with triton.InferenceServerClient(
        address, ssl=True, root_certificates=str(tmp_path / "root.pem")
    ) as client:
        assert client.is_server_live() and client.is_server_ready()  # without a key
        for headers in ({"authorization": "Bearer key-of-anna"}, {"x-api-key": "key-of-anna"}):
            assert client.infer("tiny", images, headers=headers).as_numpy("labels").shape == (1, 5)
        assert server.entries[-1]["key"] == "anna" and "key-of-anna" not in json.dumps(
            server.entries
        )
        for headers in ({}, {"x-api-key": "key-of-carl"}, {"authorization": "Basic key-of-anna"}):
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                client.infer("tiny", images, headers=headers)
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            client.get_model_metadata("tiny")
        client.infer("tiny", images, headers={"x-api-key": "key-of-bert"})
        with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
            client.infer("tiny", images, headers={"x-api-key": "key-of-bert"})


@pytest.mark.parametrize("max_body", [2**31 - 1, 2**31, 2**40])
def test_a_limit_beyond_those_of_grpc(models, max_body):
    """gRPC's own limit of a message is a signed 32-bit integer."""
    large = Served(dataclasses.replace(SETTINGS, models=str(models), max_body=max_body))
    try:
        with triton.InferenceServerClient(f"127.0.0.1:{large.port}") as client:
            answer = client.infer("tiny", [of_images(pixels(40))])
        assert len(answer.as_numpy("probabilities")) == 40
    finally:
        large.close()


def test_a_port_that_is_taken(served):
    with pytest.raises(UserError, match=f"--grpc-port {served.port} on 127.0.0.1 is not available"):

        async def build():
            rpc.build(served.calls, served.settings)

        asyncio.run(build())
