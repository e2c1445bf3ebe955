"""INT8 models: their arithmetic, the layers that stay in float, and the command."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.reference.test_unsure import CONTENTS
from tests.support.tiny_bundle import RESIZE, weights, write_model
from vision import cli
from vision.bundle import directory as bundle
from vision.bundle import runtimes
from vision.compression import float_layers, int8, latency, quantize
from vision.data.sources import open_splits
from vision.data.splits import make_splits
from vision.errors import UserError
from vision.export.onnx import load


@pytest.fixture(scope="module")
def digits():
    """{split: (images uint8 (N, 8, 8, 1), labels)} of scikit-learn's digits."""
    splits = make_splits(open_splits("digits"))
    return {
        n: (np.stack([s[i]["image"] for i in range(len(s))]), np.asarray(s.labels))
        for n, s in splits.items()
    }


def write_classifier(path, images, labels, factor=1.0):
    """Writes a linear classifier of pixels, by least squares, as three convolutions with an
    addition between them.

    One channel of what the last of them takes is `factor` times as large as the others, and adds
    nothing to the logits.
    """
    pixels = images.reshape(len(images), -1) / 255
    gram = pixels.T @ pixels + np.eye(64)
    fitted = 20 * np.linalg.solve(gram, pixels.T @ (np.eye(10)[labels] - 0.1))
    first = np.full((4, 1, 1, 1), 1 / 255, np.float32)
    second = np.zeros((4, 4, 3, 3), np.float32)
    second[range(4), range(4), 1, 1] = 0.1
    last = np.zeros((10, 4, 8, 8), np.float32)
    last[:, 0] = fitted.T.reshape(10, 8, 8)
    divisor = np.array([1, 1, 1, 1 / factor], np.float32).reshape(1, 4, 1, 1)
    arrays = {
        "first": first,
        "second": second,
        "divisor": divisor,
        "last": last,
        "bias": np.zeros(10, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "first"], ["a"]),
        helper.make_node("Conv", ["a", "second"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Div", ["d", "divisor"], ["wide"]),
        helper.make_node("Conv", ["wide", "last", "bias"], ["e"]),
        helper.make_node("Flatten", ["e"], ["embedding"]),
        helper.make_node("Softmax", ["embedding"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 8, 8, 1])],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 10])
            for n in ("probabilities", "embedding")
        ],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path
    )
    return path


def integers(model):
    """Returns the shapes of a model's 8-bit weights."""
    return [
        tuple(a.dims)
        for a in model.graph.initializer
        if a.data_type == TensorProto.INT8 and len(a.dims) > 1
    ]


@pytest.mark.parametrize("bits", (7, 8))
def test_arithmetic_is_that_of_integers(tmp_path, bits):
    """Weights are rounded to steps of each channel's largest weight, pixels to 255 steps.

    On a CPU whose sums of 8-bit products saturate, those of 7 bits do not.
    """
    write_model(tmp_path / "model.onnx", channels=3)
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    int8.quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx", images, weight_bits=bits)
    kernel = weights(channels=3)[0]
    top = {7: 64, 8: 127}[bits]
    scale = np.abs(kernel).max(0) / top
    expected = images.reshape(20, -1).astype(np.float64) @ (np.round(kernel / scale) * scale)
    if bits == 7 or int8.dot_product() != "none":
        _, embeddings = load(tmp_path / "int8.onnx")(images)
        # the head takes embeddings of 8 bits, whose zero is a step too
        step = np.ptp(expected) / 255
        np.testing.assert_allclose(embeddings, expected, atol=1.05 * step)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    constants = [numpy_helper.to_array(a) for a in graph.initializer]
    (quantized,) = (a for a in constants if a.shape == kernel.shape)
    np.testing.assert_array_equal(quantized, np.round(kernel / scale))


@pytest.mark.parametrize("method", int8.METHODS)
def test_a_quantized_network_classifies_as_the_float_one(digits, tmp_path, method):
    path = write_classifier(tmp_path / "model.onnx", *digits["train"])
    calibrated = int8.CalibratedModel(path, digits["train"][0][:64], method)
    assert list(calibrated.layers.values())[1].endswith("3x3, 4 to 4")
    assert len(calibrated.layers) == 3
    onnx.save(calibrated.model(), tmp_path / "int8.onnx")
    images = digits["test"][0]
    expected = load(path)(images)[0]
    actual = load(tmp_path / "int8.onnx")(images)[0]
    assert (expected.argmax(1) == actual.argmax(1)).mean() > 0.97
    assert np.abs(expected - actual).mean() < 0.01
    assert sorted(integers(calibrated.model())) == [(4, 1, 1, 1), (4, 4, 3, 3), (10, 4, 8, 8)]
    graph = calibrated.model().graph
    assert {array.name for array in graph.initializer} <= {
        name for node in graph.node for name in node.input
    }
    weights = {array.name for array in graph.initializer if len(array.dims) == 4}
    # no zero points
    assert [len(node.input) for node in graph.node if node.input[0] in weights] == [2, 2, 2]


def test_layers_that_are_kept_are_those_of_the_float_model(digits, tmp_path):
    path = write_classifier(tmp_path / "model.onnx", *digits["train"])
    images = digits["train"][0][:64]
    calibrated = int8.CalibratedModel(path, images)
    _, middle, last = calibrated.layers
    assert sorted(integers(calibrated.model([middle]))) == [(4, 1, 1, 1), (10, 4, 8, 8)]
    onnx.save(calibrated.model(list(calibrated.layers)), tmp_path / "same.onnx")
    for ours, expected in zip(
        load(tmp_path / "same.onnx")(images), load(path)(images), strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    int8.quantize(path, tmp_path / "a.onnx", images, keep_float=[last])
    assert sorted(integers(onnx.load(tmp_path / "a.onnx"))) == [(4, 1, 1, 1), (4, 4, 3, 3)]


def test_what_a_wide_range_spoils_goes_back_to_float(digits, tmp_path):
    """A channel 3,000 times as large as the others leaves them no steps if rounded with them."""
    path = write_classifier(tmp_path / "model.onnx", *digits["train"], factor=3000)
    manifest = {"classes": list("0123456789"), "image_size": 8, "channels": 1, "resize": RESIZE}
    bundle.write_manifest(tmp_path, bundle.Manifest(**manifest))
    model = bundle.open_bundle(tmp_path)
    images, labels = digits["val"]
    calibrated = int8.CalibratedModel(path, digits["train"][0][:64])
    lines = []
    kept, drop = float_layers.choose(calibrated, model, images, labels, 0.5, lines.append)
    assert kept == (list(calibrated.layers)[2],) and drop <= 0.5
    assert "all 3 layers in INT8 lose" in lines[0]
    kept, drop = float_layers.choose(calibrated, model, images, labels, 100.0)
    assert kept == () and drop > 50


def test_the_command_writes_a_bundle_and_says_what_it_lost(digits, tmp_path, capsys):
    (tmp_path / "float").mkdir()
    write_classifier(tmp_path / "float" / "model.onnx", *digits["train"])
    run = runtimes.open_model(tmp_path / "float" / "model.onnx").run
    sample = bundle.write_sample(tmp_path / "float", digits["val"][0][0], run)
    manifest = bundle.Manifest(
        classes=[str(i) for i in range(10)],
        image_size=8,
        channels=1,
        resize=RESIZE,
        config={"data": {"source": "digits"}},
        sample=sample,
        unsure=CONTENTS,
    )
    bundle.write_manifest(tmp_path / "float", manifest)
    argv = ["--bundle", str(tmp_path / "float"), "--out", str(tmp_path / "small")]
    cli.run(quantize.main, [*argv, "--images=64", "--max-drop", "2"])
    out = capsys.readouterr().out
    small = bundle.open_bundle(tmp_path / "small")
    assert bundle.open_bundle(tmp_path / "float").evidence and small.evidence is None
    assert "no thresholds for unsure answers" in out and "int8 changes them" in out
    images, labels = digits["test"]
    accuracy = (small(images)[0].argmax(1) == labels).mean()
    written = json.loads((tmp_path / "small" / "bundle.json").read_text())
    recorded = np.array(written["sample"]["probabilities"])
    probabilities = small.probabilities_and_embeddings(digits["val"][0][:1])[0][0]
    np.testing.assert_allclose(probabilities, recorded, atol=1e-6)
    # they are the INT8 model's
    assert np.abs(recorded - sample["probabilities"]).max() > 0
    quality = written["quality"]
    assert quality["images"] == len(labels)
    assert quality["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert quality["float32"]["metrics"]["accuracy"]["value"] > 0.9
    assert f"INT8 {100 * accuracy:.1f} %" in out
    quantization = quality["quantization"]
    assert quantization["cpu"] in (*int8.DOT_PRODUCTS, "none")
    assert quantization["images"] == 64 and quantization["validation_drop"] <= 2
    with pytest.raises(UserError, match="is INT8 already: give the float32 bundle"):
        quantize.quantize_bundle(tmp_path / "small", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_cannot_be_quantized_is_refused_in_a_line(digits, tmp_path):
    path = write_classifier(tmp_path / "model.onnx", *digits["train"])
    images = digits["train"][0]
    with pytest.raises(
        UserError, match="^0 images are too few to calibrate with: give at least 16$"
    ):
        int8.CalibratedModel(path, images[:0])
    with pytest.raises(UserError, match="'minmix' is unknown .did you mean 'minmax'"):
        int8.quantize(path, tmp_path / "a.onnx", images, "minmix")
    with pytest.raises(
        UserError, match=r"takes uint8 images of \[8, 8, 1\], not uint8 of \(9, 8, 1\)"
    ):
        int8.CalibratedModel(path, np.zeros((16, 9, 8, 1), np.uint8))
    with pytest.raises(UserError, match="keep_float = 'Conv_99' is unknown"):
        int8.quantize(path, tmp_path / "a.onnx", images[:16], keep_float=["Conv_99"])
    with pytest.raises(UserError, match="cannot be read as an ONNX model"):
        (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:999])
        int8.CalibratedModel(tmp_path / "broken.onnx", images[:16])
    with pytest.raises(
        UserError, match="--max-drop must be at least 0 percentage points, got -1.0"
    ):
        quantize.main(["--bundle", "a", "--out", "b", "--max-drop=-1"])
    with pytest.raises(UserError, match="--weight-bits must be 0, 7 or 8, got 5"):
        quantize.main(["--bundle", "a", "--out", "b", "--weight-bits=5"])
    assert not (tmp_path / "a.onnx").exists()


def test_latencies_are_compared_round_by_round():
    runs = {"one": np.sort, "eight": lambda x: [np.sort(x) for _ in range(8)]}
    result = latency.compare(runs, np.zeros((2, 40_000)), 0)
    assert result["rounds"] == latency.MIN_ROUNDS and result["batch"] == 2
    models = result["models"]
    assert models["one"]["speedup"] == 1 and models["eight"]["speedup"] < 0.5
    assert all(times["p50"] <= times["p99"] for times in models.values())
