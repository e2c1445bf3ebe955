"""A server cuts images into tiles: REST and gRPC against the bundle itself, limits, and the log."""

import http.client
import json
import pathlib
import types
import urllib.parse

import cv2
import numpy as np
import pandas as pd
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle
from vision.bundle.directory import open_bundle
from vision.data.decode import decode
from vision.serving.http import openapi

CLASSES = [f"class {i}" for i in range(10)]
X = (0, 12, 24, 36, 45)  # of tiles of 16 pixels with an overlap of a quarter
Y = (0, 12, 17)
PLACES = [(x, y, 16, 16) for y in Y for x in X]


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(5).integers(0, 256, (33, 61, 3), np.uint8)


@pytest.fixture(scope="module")
def data(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    write_bundle(models / "tiny" / "1", CLASSES)
    return models


@pytest.fixture(scope="module")
def live(models):
    with serve(models, max_tiles=40, max_pixels=5_000) as live:
        yield live


@pytest.fixture(scope="module")
def expected(models, data):
    """Probabilities (15, 10) of each tile, prepared like an image of its own."""
    bundle = open_bundle(models / "tiny" / "1", threads=1)
    pixels = decode(data)
    tiles = [bundle.prepare(pixels[y : y + 16, x : x + 16]) for x, y, _, _ in PLACES]
    return bundle.probabilities_and_embeddings(np.stack(tiles))[0]


@pytest.fixture
def ask(live):
    url = urllib.parse.urlsplit(live.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)

    def ask(body, path="/classify/tiny", **query):
        connection.request("POST", f"{path}?{urllib.parse.urlencode(query)}", body)
        response = connection.getresponse()
        content = json.loads(response.read())
        return types.SimpleNamespace(status=response.status, json=content)

    yield ask
    connection.close()


def test_classify(ask, data, expected):
    answer = ask(data, tiles=16, top_k=10, map="true").json
    best = int(expected.max(0).argmax())
    tile = int(expected[:, best].argmax())
    assert (answer["class"], answer["tile"]["x"], answer["tile"]["y"]) == (
        CLASSES[best],
        *PLACES[tile][:2],
    )
    assert answer["score"] == pytest.approx(expected.max(), abs=1e-6)
    assert (answer["width"], answer["height"], answer["model"]) == (61, 33, "tiny")
    for entry, place, row in zip(answer["tiles"], PLACES, expected, strict=True):
        assert (entry["x"], entry["y"], entry["width"], entry["height"]) == place
        given = {top["class"]: top["probability"] for top in entry["top"]}
        np.testing.assert_allclose([given[name] for name in CLASSES], row, atol=1e-6)
    sums = np.zeros((10, 33, 61))
    counts = np.zeros((33, 61))
    for (x, y, width, height), row in zip(PLACES, expected, strict=True):
        sums[:, y : y + height, x : x + width] += row[:, None, None]
        counts[y : y + height, x : x + width] += 1
    heat = {name: np.array(values) for name, values in answer["map"].items()}
    pixels = heat["probabilities"].repeat(np.diff(heat["y"]), 1).repeat(np.diff(heat["x"]), 2)
    np.testing.assert_allclose(pixels, sums / counts, atol=1e-6)
    schema = openapi.document()["components"]["schemas"]["Tiled"]
    assert set(schema["required"]) <= answer.keys() <= schema["properties"].keys()


def test_a_normal_class(ask, data, expected):
    normal = int(expected.max(0).argmax())
    greatest = np.delete(expected, normal, 1).max()
    query = {"tiles": 16, "normal": CLASSES[normal]}
    fine = ask(data, defect_threshold=greatest + 0.001, **query).json
    assert fine["class"] == CLASSES[normal]
    assert fine["score"] == pytest.approx(1 - greatest, abs=1e-6)
    defect = ask(data, defect_threshold=greatest - 0.001, **query).json
    assert defect["class"] != CLASSES[normal]
    assert defect["score"] == pytest.approx(greatest, abs=1e-6)
    assert defect["tile"] == fine["tile"]


def encoded(data, module=triton):
    infer_input = module.InferInput("image", [1], "BYTES")
    infer_input.set_data_from_numpy(np.array([data], np.object_))
    return infer_input


def raw(image, module=triton):
    infer_input = module.InferInput("images", [1, *image.shape], "UINT8")
    infer_input.set_data_from_numpy(image[None])
    return infer_input


@pytest.fixture
def client(live):
    with triton.InferenceServerClient(live.url.removeprefix("http://")) as client:
        yield client


def check_outputs(result, expected):
    best = expected.max(0)
    order = np.argsort(-best)
    np.testing.assert_array_equal(result.as_numpy("tiles"), PLACES)
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=1e-6)
    tile = PLACES[int(expected[:, order[0]].argmax())]
    np.testing.assert_array_equal(result.as_numpy("tile"), [tile])
    labels = [
        text.decode() if isinstance(text, bytes) else text for text in result.as_numpy("labels")[0]
    ]
    assert labels == [CLASSES[i] for i in order[:5]]
    np.testing.assert_allclose(result.as_numpy("scores"), [best[order[:5]]], atol=1e-6)


def test_tritons_client(client, data, image, expected):
    parameters = {"tiles": 16, "overlap": 0.25}
    for tensor in (encoded(data), raw(image)):
        result = client.infer("tiny", [tensor], parameters=parameters)
        names = [output["name"] for output in result.get_response()["outputs"]]
        assert names == ["labels", "scores", "tile", "tiles", "probabilities"]
        check_outputs(result, expected)
    names = ("map", "map_x", "map_y", "embedding")
    outputs = [triton.InferRequestedOutput(name, binary_data=True) for name in names]
    result = client.infer("tiny", [raw(image)], outputs=outputs, parameters=parameters)
    heat, x, y, embedding = (result.as_numpy(name) for name in names)
    assert heat.dtype == np.float32 and x.dtype == np.int32 and embedding.shape == (15, 6)
    assert x.tolist() == sorted({*X, *(start + 16 for start in X)})
    assert heat.shape == (10, len(y) - 1, len(x) - 1)
    np.testing.assert_allclose(heat[:, 0, 0], expected[0], atol=1e-6)
    np.testing.assert_allclose(heat[:, -1, -1], expected[-1], atol=1e-6)


def test_grpc(live, data, expected):
    import tritonclient.grpc as grpc

    with grpc.InferenceServerClient(live.grpc) as client:
        parameters = {"tiles": 16, "overlap": 0.25}
        result = client.infer("tiny", [encoded(data, grpc)], parameters=parameters)
    check_outputs(result, expected)


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({"tiles": 7}, 400, "tiles must be at least 8, got 7"),
        ({"tiles": "many"}, 400, "'tiles' must be a JSON integer"),
        ({"tiles": 16, "overlap": 0.95}, 400, "overlap must be in [0, 0.9], got 0.95"),
        ({"tiles": 16, "overlap": "nan"}, 400, "overlap must be in [0, 0.9], got nan"),
        ({"tiles": 16, "overlap": "a half"}, 400, "'overlap' must be a number"),
        ({"tiles": 16, "overlap": "0." + "0" * 40}, 400, "'overlap' must be a number"),
        ({"tiles": 16, "overlap": -0.1}, 400, "overlap must be in [0, 0.9], got -0.1"),
        ({"overlap": 0.5}, 400, "overlap needs tiles"),
        ({"map": "true"}, 400, "map needs tiles"),
        ({"tiles": 16, "heatmap": "true"}, 400, "heatmap is for images that are not cut"),
        ({"tiles": 16, "map": "1"}, 400, "map must be true or false"),
        ({"tiles": 16, "defect_threshold": 0.2}, 400, "defect_threshold needs normal"),
        ({"tiles": 16, "normal": "clas 1"}, 400, "'clas 1' is unknown (did you mean 'class 1'?)"),
        ({"tiles": 8, "overlap": 0.5}, 413, "make 120 tiles of 8, but at most 40 are allowed"),
    ],
)
def test_what_is_wrong_is_refused(ask, data, query, status, message):
    answer = ask(data, **query)
    assert answer.status == status and message in answer.json["error"]
    assert "\n" not in answer.json["error"]


@pytest.mark.parametrize("text", ["1e-3", "0.", "+0.001", ".001", "0.001"])
def test_numbers_of_a_query_are_spelled_as_anywhere(ask, data, text):
    answer = ask(data, tiles=16, overlap=text)
    assert answer.status == 200
    assert (
        answer.json["top"] == ask(data, tiles=16, overlap=0.001 if float(text) else 0).json["top"]
    )


def test_limits_of_pixels_apply(ask, client):
    large = np.zeros((100, 60, 3), np.uint8)
    answer = ask(cv2.imencode(".png", large)[1].tobytes(), tiles=60)
    assert answer.status == 413 and "5,000 in all" in answer.json["error"]
    with pytest.raises(InferenceServerException, match="5,000 in all"):
        client.infer("tiny", [raw(large)], parameters={"tiles": 60})


def test_v2_refuses_what_does_not_fit(client, data, image):
    two = triton.InferInput("image", [2], "BYTES")
    two.set_data_from_numpy(np.array([data, data], np.object_))
    with pytest.raises(InferenceServerException, match="send one image per request"):
        client.infer("tiny", [two], parameters={"tiles": 16})
    with pytest.raises(InferenceServerException, match="1 or 3 channels"):
        client.infer("tiny", [raw(image[..., :2].copy())], parameters={"tiles": 16})
    with pytest.raises(InferenceServerException, match="there is no output 'map'"):
        outputs = [triton.InferRequestedOutput("map")]
        client.infer("tiny", [encoded(data)], outputs=outputs)
    more = triton.InferInput("age", [1], "FP32")
    more.set_data_from_numpy(np.array([1.0], np.float32))
    with pytest.raises(InferenceServerException, match="models that take only images"):
        client.infer("tiny", [encoded(data), more], parameters={"tiles": 16})


def test_v1_says_where_tiles_are(ask):
    body = json.dumps({"instances": [{"b64": "AAAA"}], "parameters": {"tiles": 16}})
    answer = ask(body, "/v1/models/tiny:predict")
    assert answer.status == 400 and "protocol V2 and /classify" in answer.json["error"]


def test_the_log_has_a_row_and_keeps_an_image_for_each_tile(models, data, expected, tmp_path):
    flags = {"prediction_log": tmp_path / "log", "keep_images": 1, "log_hashes": True}
    with serve(models, grpc_port=0, **flags) as live:
        url = urllib.parse.urlsplit(live.url)
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
        connection.request("POST", "/classify/tiny?tiles=16", data)
        assert json.loads(connection.getresponse().read())["class"] in CLASSES
        connection.close()
    rows = pd.read_parquet(tmp_path / "log")
    assert rows["image"].tolist() == list(range(15)) and rows["id"].nunique() == 1
    assert rows["class"].tolist() == [CLASSES[i] for i in expected.argmax(1)]
    np.testing.assert_allclose(rows["confidence"], expected.max(1), atol=1e-6)
    assert rows["size"].notna().all() and (rows["aspect_ratio"] == rows["aspect_ratio"][0]).all()
    assert rows["sha256"].nunique() == 15
    bundle = open_bundle(models / "tiny" / "1", threads=1)
    for name, (x, y, width, height) in zip(rows["kept"], PLACES, strict=True):
        kept = decode(pathlib.Path(tmp_path / "log" / "_images" / name))
        tile = bundle.prepare(decode(data)[y : y + height, x : x + width])
        np.testing.assert_array_equal(kept, tile)
