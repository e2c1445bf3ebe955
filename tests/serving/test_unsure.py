"""Unsure answers of a server: by each protocol, in the metrics, the log and the page's routes."""

import http.client
import json
import urllib.parse

import cv2
import numpy as np
import pandas as pd
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.reference.test_unsure import CONTENTS
from tests.support.browser import PALE, browse
from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle
from vision.bundle.directory import open_bundle
from vision.monitoring.log import open_log

CLASSES = [f"kind {i}" for i in range(10)]
CLOSE = 25  # an image whose two best classes are nearly as probable
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
LARGE = np.random.default_rng(1).integers(0, 256, (20, 28, 1), np.uint8)
RULES = {"plain": None, "precise": "precision=0.95", "sets": "coverage=0.9"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """`plain` has no evidence, `precise` and `sets` have rules, `measured` has none of its own."""
    folder = tmp_path_factory.mktemp("models")
    for name, rule in RULES.items():
        evidence = CONTENTS | {"rule": rule} if rule else None
        write_bundle(folder / name / "1", CLASSES, unsure=evidence)
    write_bundle(folder / "measured" / "1", CLASSES, unsure=CONTENTS | {"rule": None})
    return folder


@pytest.fixture(scope="module")
def live(models):
    with serve(models) as server:
        yield server


@pytest.fixture(scope="module")
def probabilities(models):
    return open_bundle(models / "plain" / "1").probabilities_and_embeddings(IMAGES)[0]


@pytest.fixture
def ask(live):
    url = urllib.parse.urlsplit(live.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)

    def ask(method, path, body=None):
        content = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method, path, content)
        answer = connection.getresponse()
        data = answer.read()
        kind = answer.getheader("content-type", "")
        return answer.status, json.loads(data) if "json" in kind else data.decode()

    yield ask
    connection.close()


def encoded(index):
    return cv2.imencode(".png", IMAGES[index])[1].tobytes()


def counted(ask, model):
    """Returns how many unsure images of a model the server has counted."""
    _, text = ask("GET", "/metrics")
    name = f'vision_unsure_images_total{{model="{model}",version="1"}} '
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def test_an_image_gets_the_bundles_rule_or_the_requests(ask, probabilities):
    p = probabilities[CLOSE].astype(float)
    status, plain = ask("POST", "/classify/plain", encoded(CLOSE))
    assert status == 200 and "unsure" not in plain and "set" not in plain
    for path, least in (
        ("precise", 0.6),
        ("measured?unsure=precision=0.96", 0.6),
        ("measured?unsure=0.91", 0.0),
        ("plain?unsure=threshold=0.5", 0.5),
        ("precise?unsure=threshold=0.999999", 0.999999),
        ("precise?unsure=rule", 0.6),
    ):
        status, answer = ask("POST", f"/classify/{path}", encoded(CLOSE))
        assert status == 200 and answer["unsure"] == bool(p.max() < least), path
        assert answer["top"] == plain["top"] and "set" not in answer
    status, answer = ask("POST", "/classify/precise?unsure=none", encoded(CLOSE))
    assert status == 200 and "unsure" not in answer
    status, answer = ask("POST", "/classify/sets", encoded(CLOSE))
    ranked = [CLASSES[i] for i in np.argsort(-p, kind="stable")]
    likely = int((p >= 0.2).sum())
    assert answer["set"] == ranked[: max(1, likely)] and answer["unsure"] == (likely > 1)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("plain?unsure=precision=0.9", "unsure=precision=0.9: nothing was measured on validation"),
        ("plain?unsure=rule", "unsure=rule: the model has no rule of its own: export its run"),
        ("precise?unsure=precision=1.5", "precision must be above 0 and below 1"),
        ("precise?unsure=precision=0.999", "no threshold promises precision=0.999"),
        ("sets?unsure=coverage=0.99", "400 validation images cannot promise coverage=0.99"),
        ("sets?unsure=often", "unsure must be precision=0.99, coverage=0.95 or threshold=0.9"),
        ("sets?unsure=none&unsure=none", "a query parameter is given twice"),
    ],
)
def test_a_rule_that_there_is_not_is_refused(ask, path, reason):
    status, answer = ask("POST", f"/classify/{path}", encoded(CLOSE))
    assert status == 400 and reason in answer["error"] and "\n" not in answer["error"]


@pytest.mark.parametrize("binary", [False, True])
def test_v2_has_outputs_for_it(live, probabilities, binary):
    with triton.InferenceServerClient(urllib.parse.urlsplit(live.url).netloc) as client:
        tensor = triton.InferInput("images", list(IMAGES.shape), "UINT8")
        tensor.set_data_from_numpy(IMAGES)

        def infer(model, names=None, **parameters):
            outputs = [triton.InferRequestedOutput(n, binary_data=binary) for n in names or ()]
            parameters = parameters or None
            return client.infer(model, [tensor], outputs=outputs or None, parameters=parameters)

        def declared(model):
            return [output["name"] for output in client.get_model_metadata(model)["outputs"]]

        usual = ["labels", "scores", "probabilities", "embedding"]
        assert declared("plain") == declared("measured") == usual
        assert declared("precise") == [*usual, "unsure"]
        assert declared("sets") == [*usual, "unsure", "in_set"]
        answered = [output["name"] for output in infer("plain").get_response()["outputs"]]
        assert answered == usual
        everything = infer("sets")
        np.testing.assert_allclose(everything.as_numpy("probabilities"), probabilities, atol=1e-6)
        members = infer("sets", ["unsure", "in_set"])
        expected = probabilities >= 0.2
        expected[np.arange(len(IMAGES)), probabilities.argmax(1)] = True
        np.testing.assert_array_equal(members.as_numpy("in_set"), expected)
        np.testing.assert_array_equal(members.as_numpy("unsure"), expected.sum(1) > 1)
        asked = infer("plain", ["unsure"], unsure="threshold=0.7").as_numpy("unsure")
        np.testing.assert_array_equal(asked, probabilities.max(1) < 0.7)
        assert asked.dtype == bool and 0 < asked.sum() < len(IMAGES)
        for model, names in (("plain", ["unsure"]), ("precise", ["in_set"])):
            with pytest.raises(InferenceServerException, match="there is no output"):
                infer(model, names)
        with pytest.raises(InferenceServerException, match="'unsure' must be a JSON string"):
            infer("plain", unsure=1)


def test_v1_says_it_of_each_image(ask, probabilities):
    body = {"instances": IMAGES[:3].tolist(), "parameters": {"unsure": "threshold=0.7"}}
    status, answer = ask("POST", "/v1/models/plain:predict", body)
    assert status == 200
    unsure = [prediction["unsure"] for prediction in answer["predictions"]]
    assert unsure == (probabilities[:3].max(1) < 0.7).tolist()
    body["parameters"] = {}
    status, answer = ask("POST", "/v1/models/plain:predict", body)
    assert "unsure" not in answer["predictions"][0]
    status, answer = ask("POST", "/v1/models/sets:predict", body)
    assert all(len(p["set"]) >= 1 for p in answer["predictions"])


def test_grpc_says_it_too(live, probabilities):
    import tritonclient.grpc as triton_grpc

    with triton_grpc.InferenceServerClient(live.grpc) as client:
        tensor = triton_grpc.InferInput("images", list(IMAGES.shape), "UINT8")
        tensor.set_data_from_numpy(IMAGES)
        result = client.infer("plain", [tensor], parameters={"unsure": "threshold=0.7"})
        np.testing.assert_array_equal(result.as_numpy("unsure"), probabilities.max(1) < 0.7)
        assert client.infer("plain", [tensor]).as_numpy("unsure") is None


def test_the_page_learns_the_rule_and_the_metrics_count(ask):
    _, contents = ask("GET", "/classify/models")
    about = {model["name"]: model["about"]["1"]["unsure"] for model in contents["models"]}
    assert about == RULES | {"measured": None}
    before = counted(ask, "plain")
    body = {"instances": IMAGES[:8].tolist(), "parameters": {"unsure": "threshold=0.999999"}}
    _, answer = ask("POST", "/v1/models/plain:predict", body)
    unsure = sum(prediction["unsure"] for prediction in answer["predictions"])
    assert unsure and counted(ask, "plain") == before + unsure


def test_no_rule_applies_to_an_image_that_is_cut(ask):
    data = cv2.imencode(".png", LARGE)[1].tobytes()
    for model, least in (("precise", 0.6), ("sets", None)):
        before = counted(ask, model)
        status, answer = ask("POST", f"/classify/{model}?tiles=8", data)
        assert status == 200 and "unsure" not in answer and "set" not in answer
        best = [tile["top"][0]["probability"] for tile in answer["tiles"]]
        assert least is None or min(best) < least  # such an image by itself is unsure
        assert counted(ask, model) == before
    for requirement in ("threshold=0.5", "coverage=0.9", "rule", "none", "often"):
        status, answer = ask("POST", f"/classify/precise?tiles=8&unsure={requirement}", data)
        assert status == 400
        assert answer["error"] == "unsure is for images that are not cut: leave out unsure or tiles"


def test_v2_and_grpc_have_no_rule_for_an_image_that_is_cut(live):
    import tritonclient.grpc as triton_grpc

    addresses = {triton: urllib.parse.urlsplit(live.url).netloc, triton_grpc: live.grpc}
    for module, address in addresses.items():
        with module.InferenceServerClient(address) as client:
            tensor = module.InferInput("images", [1, *LARGE.shape], "UINT8")
            tensor.set_data_from_numpy(LARGE[None])
            result = client.infer("sets", [tensor], parameters={"tiles": 8})
            assert result.as_numpy("tiles") is not None
            assert result.as_numpy("unsure") is None and result.as_numpy("in_set") is None
            with pytest.raises(InferenceServerException, match="for images that are not cut"):
                client.infer("sets", [tensor], parameters={"tiles": 8, "unsure": "threshold=0.5"})
            with pytest.raises(InferenceServerException, match="there is no output 'unsure'"):
                outputs = [module.InferRequestedOutput("unsure")]
                client.infer("sets", [tensor], outputs=outputs, parameters={"tiles": 8})


def test_the_log_keeps_it_and_is_read_with_and_without(tmp_path, models, probabilities):
    """Files of earlier servers lack the column; they and their readers have the same format."""
    import pyarrow.parquet

    from vision.reference.unsure import Requirement, Rule
    from vision.serving.logs.prediction_log import PredictionLog
    from vision.serving.request import Answer, Request

    rule = Rule(Requirement("threshold", 0.7), 0.7)
    log = PredictionLog(tmp_path, 100, 60.0)
    for number, own in enumerate((rule, None)):
        result = Answer("m", "1", tuple(CLASSES), probabilities, probabilities, {}, rule=own)
        log.put(Request("m", IMAGES, id=f"r{number}"), result, shadow=False)
    log.write(everything=True)
    rows = pd.read_parquet(tmp_path)
    first = rows[rows["id"] == "r0"]["unsure"]
    assert first.tolist() == (probabilities.max(1) < 0.7).tolist()
    assert rows[rows["id"] == "r1"]["unsure"].isna().all()
    (file,) = tmp_path.glob("*.parquet")
    table = pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(table.drop_columns("unsure"), file)
    opened = open_log(tmp_path)
    assert not opened.skipped
    assert sum(len(batch) for batch in opened.batches(["class", "confidence"])) == len(rows)


@pytest.mark.parametrize(("width", "theme"), [(1120, "light"), (390, "dark")])
def test_the_page_says_unsure(live, models, tmp_path, width, theme):
    photo = tmp_path / "photo.png"
    photo.write_bytes(encoded(CLOSE))
    with browse(live.url + "/", width, 844, theme) as page:
        page.wait("model.options.length")
        page.upload("#file", photo)
        shown = {}
        for model in ("precise", "sets", "plain"):
            change = f"model.value = '{model}'; model.dispatchEvent(new Event('change'))"
            page.evaluate(change)
            page.wait(f"document.querySelector('.answer h3')?.textContent.startsWith('{model},')")
            texts = "[...document.querySelectorAll('.best, .guess')].map(e => e.textContent)"
            shown[model] = (page.evaluate(texts), page.evaluate("about.textContent"))
            page.check()
            assert page.evaluate(PALE) == [] and page.complaints == []
            page.screenshot(tmp_path / f"{model}-{theme}.png")
    assert shown["precise"][1].endswith("It says when it is unsure: precision 0.95.")
    assert "unsure" not in shown["plain"][1] and len(shown["plain"][0]) == 1
    p = open_bundle(models / "plain" / "1").probabilities_and_embeddings(IMAGES[CLOSE:][:1])[0][0]
    best, second = (CLASSES[i] for i in np.argsort(-p)[:2])
    assert p.max() < 0.6 and (p >= 0.2).sum() == 2
    assert shown["precise"][0] == ["Unsure", f"Best guess: {best}"]
    assert shown["sets"][0] == ["Unsure", f"One of 2: {best}, {second}"]
