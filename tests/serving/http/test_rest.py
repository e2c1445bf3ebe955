"""REST as clients see it: a server in another process, Triton's client and hostile requests."""

import base64
import http.client
import io
import json
import math
import re
import types
import urllib.parse

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from starlette.testclient import TestClient
from tritonclient.utils import InferenceServerException

from tests.support import hostile, wire
from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle
from vision.bundle.directory import open_bundle
from vision.data.decode import decode
from vision.serving.errors import TooMany
from vision.serving.headers import FORMATS
from vision.serving.http import openapi, rest
from vision.serving.http.middleware.response_headers import HEADERS
from vision.serving.keys import ApiKeys
from vision.serving.settings import Settings

KEY = {"X-Api-Key": wire.KEY}  # Triton's client adds to what it is given: hand it a copy
IMAGES = wire.pixels(count=3)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    for version in ("1", "2"):
        write_bundle(
            models / "tiny" / version, side=28, classes=[f"class {version}.{i}" for i in range(10)]
        )
    keys = models.parent / "keys"
    keys.write_text(f"tester {wire.KEY}\n")
    with serve(models, keys=keys, body_timeout=1.5, grpc_port=0) as live:
        yield models, live


@pytest.fixture(scope="module")
def bundle(server):
    return open_bundle(server[0] / "tiny" / "2", threads=1)


@pytest.fixture
def ask(server):
    url = urllib.parse.urlsplit(server[1].url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)

    def ask(method, path, body=None, headers=None):
        connection.request(method, path, body, KEY if headers is None else headers)
        answer = connection.getresponse()
        data = answer.read()
        return types.SimpleNamespace(
            status=answer.status,
            headers={name.lower(): value for name, value in answer.getheaders()},
            body=data,
            json=json.loads(data)
            if answer.getheader("content-type") == "application/json"
            else None,
        )

    yield ask
    connection.close()


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server[1].url.removeprefix("http://")) as client:
        yield client


def tensor(images, binary=True):
    infer_input = triton.InferInput("images", images.shape, "UINT8")
    infer_input.set_data_from_numpy(images, binary_data=binary)
    return infer_input


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_what_the_model_says(client, bundle, binary):
    names = ("labels", "scores", "probabilities", "embedding")
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    result = client.infer(
        "tiny", [tensor(IMAGES, binary)], outputs=outputs, request_id="mine", headers=dict(KEY)
    )
    probabilities, embedding = bundle.probabilities_and_embeddings(IMAGES)
    np.testing.assert_allclose(result.as_numpy("probabilities"), probabilities, atol=1e-6)
    np.testing.assert_allclose(result.as_numpy("embedding"), embedding, rtol=1e-5, atol=1e-5)
    order = np.argsort(-probabilities, axis=1)[:, :5]
    np.testing.assert_allclose(
        result.as_numpy("scores"), np.take_along_axis(probabilities, order, 1), atol=1e-6
    )
    labels = [text.decode() if binary else text for text in result.as_numpy("labels")[:, 0]]
    assert labels == [bundle.classes[i] for i in order[:, 0]]
    assert (result.get_response()["id"], result.get_response()["model_version"]) == ("mine", "2")


def test_a_request_that_names_no_output_gets_all_that_the_metadata_declares(client, bundle):
    declared = client.get_model_metadata("tiny", headers=dict(KEY))["outputs"]
    result = client.infer("tiny", [tensor(IMAGES)], headers=dict(KEY))
    outputs = result.get_response()["outputs"]
    assert [(entry["name"], entry["datatype"]) for entry in outputs] == [
        (entry["name"], entry["datatype"]) for entry in declared
    ]
    for entry, about in zip(outputs, declared, strict=True):
        shape = result.as_numpy(entry["name"]).shape
        assert len(shape) == len(about["shape"]) and shape[0] == len(IMAGES)
        assert all(want in (-1, size) for size, want in zip(shape, about["shape"], strict=True))


def test_tritons_client_sends_encoded_images_and_asks_for_classes(client, bundle):
    data = [wire.image(kind) for kind in ("JPEG", "PNG", "WebP")]
    images = triton.InferInput("image", [3], "BYTES")
    images.set_data_from_numpy(np.array(data, np.object_))
    outputs = [triton.InferRequestedOutput("probabilities", class_count=2)]
    result = client.infer("tiny", [images], model_version="1", outputs=outputs, headers=dict(KEY))
    expected, _ = bundle.probabilities_and_embeddings(
        np.stack([bundle.prepare(decode(content)) for content in data])
    )
    value, index, name = result.as_numpy("probabilities")[1, 0].decode().split(":")
    assert (int(index), name) == (expected[1].argmax(), f"class 1.{index}")
    assert float(value) == pytest.approx(expected[1].max(), abs=1e-5)
    assert result.get_response()["model_version"] == "1"


def test_tritons_client_asks_about_the_server(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("tiny", headers=dict(KEY)) and client.is_model_ready(
        "tiny", "1", headers=KEY
    )
    assert not client.is_model_ready("tiny", "9", headers=dict(KEY))
    assert client.get_server_metadata(headers=dict(KEY))["extensions"] == [
        "binary_tensor_data",
        "classification",
    ]
    about = client.get_model_metadata("tiny", headers=dict(KEY))
    assert (about["versions"], about["platform"]) == (["1", "2"], "onnxruntime_onnx")
    assert about["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28, 1]}
    with pytest.raises(InferenceServerException, match="no model"):
        client.infer("none", [tensor(IMAGES)], headers=dict(KEY))


def test_v1(ask, bundle):
    data = wire.image()
    for instance in (
        {"b64": base64.b64encode(data).decode()},
        bundle.prepare(decode(data)).tolist(),
    ):
        body = json.dumps({"instances": [instance], "parameters": {"top_k": 2}})
        response = ask("POST", "/v1/models/tiny:predict", body)
        probabilities, _ = bundle.probabilities_and_embeddings(bundle.prepare(decode(data))[None])
        (prediction,) = response.json["predictions"]
        assert prediction["labels"] == [
            bundle.classes[i] for i in np.argsort(-probabilities[0])[:2]
        ]
        assert response.json["model_version"] == response.headers["x-model-version"] == "2"
    assert ask("POST", "/v1/models/tiny/versions/1:predict", body).json["model_version"] == "1"
    assert ask("GET", "/v1/models/tiny").json == {"name": "tiny", "ready": True}
    assert ask("GET", "/v1/models").json == ask("GET", "/v2/models").json == {"models": ["tiny"]}


def test_an_image_comes_as_it_is_or_in_a_form(ask, bundle):
    data = wire.image("JPEG")
    probabilities, _ = bundle.probabilities_and_embeddings(bundle.prepare(decode(data))[None])
    plain = ask(
        "POST",
        "/classify/tiny?top_k=3",
        data,
        KEY | {"X-Request-Id": "mine", "Content-Type": "image/jpeg"},
    )
    assert (plain.json["model"], plain.json["version"], plain.json["id"]) == ("tiny", "2", "mine")
    assert [entry["class"] for entry in plain.json["top"]] == [
        bundle.classes[i] for i in np.argsort(-probabilities[0])[:3]
    ]
    assert plain.json["top"][0]["probability"] == pytest.approx(probabilities.max(), abs=1e-6)
    assert plain.json["milliseconds"].keys() == {"decode", "queue", "compute"}
    assert plain.headers["x-request-id"] == "mine" and plain.headers["x-model-version"] == "2"
    part = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        + data
        + b"\r\n--b--\r\n"
    )
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    form = ask("POST", "/classify/tiny?version=1", part, KEY | kind)
    assert form.json["version"] == "1"
    assert [entry["class"].split(".")[1] for entry in form.json["top"][:3]] == [
        entry["class"].split(".")[1] for entry in plain.json["top"]
    ]


def test_what_the_page_asks(ask):
    (model,) = ask("GET", "/classify/models").json["models"]
    assert model.items() >= {"name": "tiny", "versions": ["1", "2"], "serving": "2"}.items()
    assert [*model["about"]] == ["1", "2"]
    assert (
        model["about"]["1"].items()
        >= {"classes": 10, "image_size": 28, "channels": 1, "quality": None}.items()
    )


def test_what_the_page_asks_is_json_whatever_a_bundle_says_of_itself():
    bundle = types.SimpleNamespace(
        classes=("a", "b"), image_size=8, channels=1, resize={"crop_fraction": 1.0}, explain=None
    )
    bundle.encoder = None
    bundle.evidence = None
    bundle.seen = 0.875
    bundle.quality = {"metrics": {"accuracy": {"value": math.nan}, "loss": {"value": 0.5}}}
    repository = types.SimpleNamespace(
        get=lambda *names: types.SimpleNamespace(bundle=bundle, name="1")
    )
    content = json.dumps(
        rest._Routes(None, repository, None)._describe_model("tiny", ["1"]), allow_nan=False
    )
    about = json.loads(content)["about"]["1"]
    assert about["quality"] == {"metrics": {"accuracy": {"value": None}, "loss": {"value": 0.5}}}
    assert about["seen"] == 0.875


def test_metrics(ask):
    ask("POST", "/classify/tiny", wire.image())
    assert re.search(
        rb'vision_requests_total\{.*version="2".*\} [1-9]', ask("GET", "/metrics").body
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("GET", "/v2/models/none", None, 404),
        ("GET", "/v2/models/tiny/versions/9/ready", None, 404),
        ("DELETE", "/v2/models/tiny", None, 405),
        ("POST", "/v2/models/tiny/infer", b"{", 400),
        ("POST", "/classify/tiny", b"no image", 415),
        ("POST", "/classify/tiny", b"", 400),
        ("POST", "/classify/tiny", bytes(34_000_000), 413),
        ("POST", "/classify/tiny?top_k=0", wire.image(), 400),
    ],
)
def test_errors_are_one_line_of_json(ask, method, path, body, status):
    response = ask(method, path, body)
    assert (
        response.status == status
        and response.json.keys() == {"error"}
        and "\n" not in response.json["error"]
    )
    assert response.headers.items() >= HEADERS.items()


def test_the_formats_that_are_read_are_those_that_are_named(ask):
    document = ask("GET", "/openapi.json").json
    post = document["paths"]["/classify/{model}"]["post"]
    kinds = {kind for kind in post["requestBody"]["content"] if kind.startswith("image/")}
    accepted = re.search(rb'type="file" accept="(.*?)"', ask("GET", "/").body)[1].decode()
    assert kinds == set(accepted.split(",")) == set(FORMATS.values())
    for kind, media_type in FORMATS.items():
        assert f"image/{kind.lower()}" == media_type
        assert ask("POST", "/classify/tiny", wire.image(kind)).status == 200
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "AVIF")
    names = ", ".join(FORMATS)
    refused = ask("POST", "/classify/tiny", file.getvalue())
    assert refused.status == 415 and names in post["responses"]["415"]["description"]
    assert refused.json["error"].endswith(f"an AVIF file is not accepted: send {names}")


def test_only_health_and_the_page_need_no_key(ask):
    for path in ("/", "/docs", "/openapi.json", "/page.css", "/v2/health/live", "/v2/health/ready"):
        assert ask("GET", path, headers={}).status == 200
    for path in (
        "/v2",
        "/v2/",
        "/v2/models",
        "/v2/models/tiny",
        "/metrics",
        "/classify/models",
        "/nothing",
    ):
        assert ask("GET", path, headers={}).status == 401
    assert ask("POST", "/classify/tiny", wire.image(), {}).status == 401


def test_the_pages_ask_nobody_else_and_hold_no_script(ask):
    for path in ("/", "/docs"):
        response = ask("GET", path)
        text = response.body.decode()
        assert response.headers["content-type"].startswith("text/html")
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text)
        assert not re.search(r"<script(?![^>]*src=)|<style| style=| on[a-z]+=", text)
    assert all(name in text for name in ("/v2/models/{model}/infer", "top_k", "InferRequest"))


def test_the_document_tells_of_each_route():
    settings = Settings()
    app = rest.build(None, None, ApiKeys(settings), None, settings)
    documented = {
        (method.upper(), path)
        for path, route in openapi.document()["paths"].items()
        for method in route
    }
    routes = {(method, route.path) for route in app.routes for method in route.methods - {"HEAD"}}
    pages = {("GET", path) for path in (*rest.files(), "/docs", "/openapi.json")}
    assert documented == routes - pages and pages <= routes


def test_some_hostile_requests(server):
    """Of each twelfth; all of them are in tests/slow."""
    models, live = server
    cases = [case for case in hostile.chosen() if not case.pause]
    assert hostile.run(live, models / "tiny" / "2", cases[::12] + hostile.fuzzed(100, seed=7)) == []


class Busy:
    """Stands for a service and a repository that are full, or stop."""

    ready = False

    def get(self, model, version=""):
        return None

    async def classify(self, request):
        raise TooMany("4 images wait already", 2.5)

    def refused(self, protocol, model, error):
        self.error = (protocol, model, type(error))

    def access(self, entry):
        self.entry = entry


def test_a_full_queue_says_when_to_try_again():
    busy = Busy()
    settings = Settings()
    client = TestClient(rest.build(busy, busy, ApiKeys(settings), busy, settings))
    response = client.post("/classify/tiny", content=wire.image())
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert busy.error == ("rest", "tiny", TooMany) and busy.entry["code"] == 429
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/v2/health/live").status_code == 200
