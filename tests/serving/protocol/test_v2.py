"""What a client may send, and what it gets: against Triton's own client and by properties."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient import utils

from vision.serving.errors import Refused, TooLarge
from vision.serving.protocol import json_io, v1, v2
from vision.serving.protocol.inference import ALL_OUTPUTS, OUTPUTS, answer_size
from vision.serving.protocol.tensors import pack_bytes, unpack_bytes
from vision.serving.request import Answer

IMAGES = np.arange(2 * 3 * 3 * 1, dtype=np.uint8).reshape(2, 3, 3, 1)
ENCODED = [b"\xff\xd8 one", b"", b"\x89PNG three"]


def answer(count=2, classes=4):
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(classes), count).astype(np.float32)
    names = tuple(f"class {i}, ü" for i in range(classes))
    embedding = random.normal(size=(count, 3)).astype(np.float32)
    return Answer(
        "m", "7", names, probabilities, embedding, {"decode": 0.0, "queue": 0.0, "compute": 0.0}
    )


def request(outputs=(), **changes):
    entry = {
        "name": "images",
        "datatype": "UINT8",
        "shape": list(IMAGES.shape),
        "data": IMAGES.ravel().tolist(),
    }
    return {"inputs": [entry | changes], "outputs": list(outputs)}


def read(document, raw=b"", length=None):
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    return v2.read_request(head + raw, str(len(head)) if raw and length is None else length)


def test_a_tensor_is_the_same_however_it_comes():
    flat = request()
    nested = request(data=IMAGES.tolist())
    binary = request(parameters={"binary_data_size": IMAGES.nbytes})
    del binary["inputs"][0]["data"]
    for inference in (read(flat), read(nested), read(binary, IMAGES.tobytes())):
        np.testing.assert_array_equal(inference.images, IMAGES)
        assert inference.images.dtype == np.uint8
        assert [(output.name, output.binary) for output in inference.outputs] == [
            (name, False) for name in ALL_OUTPUTS
        ]


def test_json_may_begin_with_a_mark():
    inference = v2.read_request(b"\xef\xbb\xbf" + json.dumps(request()).encode())
    np.testing.assert_array_equal(inference.images, IMAGES)


def test_encoded_images_are_base64_in_json_and_bytes_behind_it():
    entry = {"name": "image", "datatype": "BYTES", "shape": [3]}
    texts = [base64.b64encode(image).decode() for image in ENCODED]
    assert read({"inputs": [entry | {"data": texts}]}).images == ENCODED
    assert (
        read({"inputs": [entry | {"shape": [3, 1], "data": [[text] for text in texts]}]}).images
        == ENCODED
    )
    raw = utils.serialize_byte_tensor(np.array(ENCODED, np.object_)).item()
    assert (
        read({"inputs": [entry | {"parameters": {"binary_data_size": len(raw)}}]}, raw).images
        == ENCODED
    )


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_texts_are_packed_as_triton_packs_them(texts):
    raw = pack_bytes(texts)
    assert raw == utils.serialize_byte_tensor(np.array(texts, np.object_)).item()
    assert unpack_bytes(raw, len(texts)) == texts


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=4), st.data())
@settings(deadline=None, max_examples=100)
def test_texts_that_are_cut_or_overlong_are_refused(texts, data):
    raw = pack_bytes(texts)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    for wrong, count in ((cut, len(texts)), (raw + b"\0", len(texts)), (raw, len(texts) + 1)):
        with pytest.raises(Refused):
            unpack_bytes(wrong, count)


def test_the_answer_has_each_output_that_is_asked_for():
    model_answer = answer()
    asked = [{"name": name, "parameters": {"binary_data": name == "embedding"}} for name in OUTPUTS]
    inference = read(request(asked) | {"parameters": {"top_k": 3}, "id": "mine"})
    body, length = v2.write_response(model_answer, inference, inference.id)
    head = json.loads(body[:length])
    assert (head["model_name"], head["model_version"], head["id"]) == ("m", "7", "mine")
    outputs = {output["name"]: output for output in head["outputs"]}
    assert outputs["labels"]["shape"] == outputs["scores"]["shape"] == [2, 3]
    order = np.argsort(-model_answer.probabilities, axis=1)[:, :3]
    assert outputs["labels"]["data"] == [model_answer.classes[i] for i in order.ravel()]
    np.testing.assert_array_equal(
        outputs["scores"]["data"], np.take_along_axis(model_answer.probabilities, order, 1).ravel()
    )
    np.testing.assert_array_equal(
        outputs["probabilities"]["data"], model_answer.probabilities.ravel()
    )
    assert outputs["embedding"]["parameters"] == {"binary_data_size": model_answer.embedding.nbytes}
    assert body[length:] == model_answer.embedding.tobytes()


def test_all_outputs_are_binary_where_the_request_says_so():
    body, length = v2.write_response(
        answer(), read(request() | {"parameters": {"binary_data_output": True}}), ""
    )
    sizes = [
        output["parameters"]["binary_data_size"] for output in json.loads(body[:length])["outputs"]
    ]
    assert length + sum(sizes) == len(body)
    labels = utils.deserialize_bytes_tensor(body[length : length + sizes[0]])
    assert labels[0].decode() == answer().top(1)[0][0][0]


def test_classification_is_tritons():
    asked = [{"name": "probabilities", "parameters": {"classification": 2}}]
    model_answer = answer()
    output = json.loads(v2.write_response(model_answer, read(request(asked)), "")[0])["outputs"][0]
    best = int(model_answer.probabilities[0].argmax())
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert (
        output["data"][0]
        == f"{model_answer.probabilities[0, best]:f}:{best}:{model_answer.classes[best]}"
    )


def test_v1():
    texts = [
        {"b64": base64.b64encode(ENCODED[0]).decode()},
        {"image": {"b64": base64.b64encode(ENCODED[2]).decode()}},
    ]
    assert v1.read_request(json.dumps({"instances": texts}).encode()).images == [
        ENCODED[0],
        ENCODED[2],
    ]
    inference = v1.read_request(
        json.dumps({"instances": IMAGES.tolist(), "parameters": {"top_k": 2}}).encode()
    )
    np.testing.assert_array_equal(inference.images, IMAGES)
    response = json.loads(v1.write_response(answer(), inference))
    assert response["model_version"] == "7"
    labels = [[name for name, _ in best] for best in answer().top(2)]
    assert [prediction["labels"] for prediction in response["predictions"]] == labels


WRONG = {
    "no JSON": b"{",
    "no object": b"[]",
    "no text": b"\xff\xfe\xfa",
    "NaN": b'{"inputs": [NaN]}',
    "a key twice": b'{"inputs": [], "inputs": []}',
    "deep": b'{"inputs": ' + b"[" * 100_000,
    "a long number": b'{"inputs": ' + b"9" * 100_000 + b"}",
    "no inputs": {},
    "inputs of a kind": {"inputs": {"name": "images"}},
    "an input of a kind": {"inputs": [1]},
    "no input": {"inputs": []},
    "both inputs": {"inputs": request()["inputs"] * 2},
    "another name": request(name="pixels"),
    "another datatype": request(datatype="FP32"),
    "a name of a kind": request(name=7),
    "three dimensions": request(shape=[3, 3, 1]),
    "a shape of a kind": request(shape=["2", 3, 3, 1]),
    "a shape of truths": request(shape=[True, 3, 3, 2]),
    "a negative shape": request(shape=[-2, 3, -3, 1]),
    "an empty shape": request(shape=[0, 3, 3, 1]),
    "a huge shape": request(shape=[2**31, 2**31, 2**31, 1]),
    "another shape": request(shape=[2, 3, 3, 3]),
    "no data": {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 1]}]},
    "a pixel too bright": request(data=[256] * 18),
    "a pixel too dark": request(data=[-1] * 18),
    "a pixel of a kind": request(data=[0.5] * 18),
    "a huge pixel": request(data=[10**400] * 18),
    "a pixel of text": request(data=["1"] * 18),
    "no pixel": request(data=[None] * 18),
    "ragged": request(data=[[1, 2], [3]]),
    "lists and numbers": request(data=[[1], 2]),
    "too deep": request(data=[[[[[1]]]]] * 18),
    "an unknown output": request([{"name": "logits"}]),
    "an output twice": request([{"name": "scores"}, {"name": "scores"}]),
    "classification of another": request([{"name": "scores", "parameters": {"classification": 2}}]),
    "negative classification": request(
        [{"name": "probabilities", "parameters": {"classification": -2}}]
    ),
    "top 0": request() | {"parameters": {"top_k": 0}},
    "top of a kind": request() | {"parameters": {"top_k": "5"}},
    "top of truth": request() | {"parameters": {"top_k": True}},
    "an id of a kind": request() | {"id": 5},
    "a long id": request() | {"id": "x" * 300},
    "a size without bytes": request(parameters={"binary_data_size": 18}),
    "base64 that is none": {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["?"]}]
    },
    "base64 of a kind": {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [{}]}]
    },
    "base64 beyond ASCII": {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["ü"]}]
    },
}


@pytest.mark.parametrize("document", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused_in_one_line(document):
    with pytest.raises(Refused) as caught:
        read(document)
    assert "\n" not in caught.value.message and len(caught.value.message) < 300


@pytest.mark.parametrize("length", ["-1", "1e2", "", "99999", "9" * 400, "٣", " 4"])
def test_a_header_length_that_is_none_is_refused(length):
    with pytest.raises(Refused):
        read(request(), b"", length)


@pytest.mark.parametrize("size", [-1, 0, 17, 19, 2**70, "18", 18.0, None])
def test_a_wrong_binary_size_is_refused(size):
    document = request(parameters={"binary_data_size": size})
    del document["inputs"][0]["data"]
    with pytest.raises(Refused):
        read(document, IMAGES.tobytes())


def test_too_many_values_are_refused_before_they_are_read():
    with pytest.raises(TooLarge):
        json_io.read_json(b'{"inputs": [' + b"1," * json_io.MAX_JSON_ITEMS + b"1]}")


def test_numbers_that_are_not_whole_are_few():
    """They take ten times as long to read: 1.9 million held up all other requests for 0.7 s."""
    pixels = {
        "name": "images",
        "datatype": "UINT8",
        "shape": [1, 1, 2000, 1],
        "data": [0.5019608] * 2000,
    }
    with pytest.raises(TooLarge, match="not integers; pixels are"):
        v2.read_request(json.dumps({"inputs": [pixels]}).encode())
    # of a client that means something by it
    document = request() | {"parameters": {"weights": [0.5] * 900}}
    assert len(read(document).images) == 2


def test_long_answers_are_the_same_json():
    random = np.random.default_rng(0)
    names = tuple(f'the "{i}"th é' for i in range(3000))
    model_answer = Answer(
        "m",
        "7",
        names,
        random.random((2, 3000), np.float32),
        random.random((2, 2000), np.float32),
        {},
    )
    inference = read(
        request([{"name": name} for name in OUTPUTS]) | {"parameters": {"top_k": 3000}}
    )
    assert answer_size(model_answer, inference) == 2 * (3 * 3000 + 2000)
    outputs = {
        output["name"]: output["data"]
        for output in json.loads(v2.write_response(model_answer, inference, "")[0])["outputs"]
    }
    np.testing.assert_array_equal(outputs["probabilities"], model_answer.probabilities.ravel())
    np.testing.assert_array_equal(outputs["embedding"], model_answer.embedding.ravel())
    assert outputs["labels"][:3000] == [name for name, _ in model_answer.top(3000)[0]]


@pytest.mark.parametrize(
    "instances", [[], [{}], [{"b64": 1}], [{"image": []}], [[1]], [[[[300]]]], [[[[1]]], 2], "x"]
)
def test_wrong_instances_are_refused(instances):
    with pytest.raises(Refused):
        v1.read_request(json.dumps({"instances": instances}).encode())


def more(name, datatype, data, shape=None):
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


def test_what_a_model_takes_beside_images_comes_in_any_form():
    document = request()
    document["inputs"] += [
        more("text", "BYTES", ["a cat", None]),
        more("age", "FP32", [3.5, None]),
        more("ward", "INT64", [[7], [8]], [2, 1]),
    ]
    cells = read(document).cells
    assert cells == {"text": ["a cat", ""], "age": [3.5, None], "ward": [7, 8]}
    raw = pack_bytes([b"a cat", b""]) + np.array([3.5, np.nan], "<f4").tobytes()
    binary = request()
    binary["inputs"] += [
        more("text", "BYTES", [], [2]) | {"parameters": {"binary_data_size": len(raw) - 8}},
        more("age", "FP32", [], [2]) | {"parameters": {"binary_data_size": 8}},
    ]
    for entry in binary["inputs"][1:]:
        del entry["data"]
    text, age = read(binary, raw).cells.values()
    assert text == ["a cat", ""] and age[0] == 3.5 and np.isnan(age[1])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([more("age", "FP32", ["old", 1])], "must hold numbers"),
        ([more("text", "BYTES", [3, 4])], "must hold texts"),
        ([more("text", "BYTES", ["\ud800", "b"])], "must be UTF-8"),
        ([more("a" * 10_000, "BYTES", [1] * 8, [2, 2, 2])], "input 'a{1,200}"),
        ([more("age", "FP32", [1.0], [2])], "has 1 values, but its shape needs 2"),
        ([more("age", "FP32", [1.0, 2.0])] * 2, "sent twice"),
        ([more("age", "FP32", [1.0] * 8, [2, 2, 2])], "must have the shape"),
    ],
)
def test_what_is_wrong_beside_the_images_is_refused(inputs, message):
    document = request()
    document["inputs"] += inputs
    with pytest.raises(Refused, match=message):
        read(document)


def test_a_text_of_any_length_is_not_tokenized():
    document = request()
    document["inputs"].append(more("text", "BYTES", ["é" * 4_097, "b"]))
    with pytest.raises(TooLarge, match="4,097 characters: send at most 4,096"):
        read(document)
