"""Multiply-adds against the count of the traced model; the prediction of latency by formula."""

import numpy as np
import pytest

from tests.search.architecture.conftest import settings
from vision.errors import UserError
from vision.models.layers.variants import choice_of, parse, spell
from vision.search.architecture.costs import (
    Prediction,
    Task,
    architecture,
    count,
    layers,
)

SPACE = "r9.16-c8s1.2-w8.16d1.2k3.5.7e1.2s1.2se0.1-w24d1.3k5e2.4s2se0.1-h16.32"


@pytest.fixture(scope="module")
def task():
    return Task(settings(SPACE), ("a", "b", "c"), 13, 1)


def test_multiply_adds_are_those_of_the_trace(task):
    space = parse(SPACE)
    random = np.random.default_rng(0)
    choices = [space.smallest(), space.largest(), *(space.sample(random) for _ in range(6))]
    choices.append(choice_of("c8-w8e2-w16d2e3s2se1-h8"))  # the images' own size
    for choice in choices:
        assert count(choice, task) == task.macs(spell(choice)), spell(choice)


def test_multiply_adds_are_those_of_the_exported_file(task, tmp_path):
    """The file's count leaves out the resizing, an Einsum there; it computes the same."""
    onnx = pytest.importorskip("vision.export.onnx")
    from vision.compression.costs import costs
    from vision.export.program import served

    choice = choice_of("r9-c8s2-w8e1-w16d2k5e2s2se1-h16")
    small = task.classifier(spell(choice))
    onnx.write(served(small), tmp_path / onnx.NAME)
    resizing = (13 * 9 + 9 * 9) * 13
    assert costs(tmp_path / onnx.NAME)["macs"] == count(choice, task) - resizing
    pixels = np.random.default_rng(0).integers(0, 256, (3, 13, 13, 1), np.uint8)
    outputs = onnx.load(tmp_path / onnx.NAME)(pixels)
    expected = small.probabilities_and_embeddings(pixels)
    for output, value in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, value, atol=1e-5)


def test_latency_is_predicted_where_it_is_a_sum_over_layers(task):
    """From made-up times of each layer's multiply-adds and of each layer."""
    space = parse(SPACE)
    random = np.random.default_rng(0)
    choices = [space.sample(random) for _ in range(60)]

    def time(choice):
        rows = layers(choice, task.image_size, task.channels)
        return 0.1 + sum(0.01 + 1e-6 * macs for kind, macs, _ in rows if kind != "stem")

    seen, others = choices[:40], choices[40:]
    measured = {spell(choice): time(choice) for choice in seen}
    prediction = Prediction(measured, seen[: len(measured)], task)
    assert prediction.error < 0.02
    for choice in others:
        assert prediction(choice) == pytest.approx(time(choice), rel=0.05)


@pytest.mark.parametrize("text", ["mobilenet", ":small", "mobilenet:"])
def test_an_architecture_is_model_and_variant(text):
    with pytest.raises(UserError, match="--budget = .* must be MODEL:VARIANT"):
        architecture(text, "--budget")
    assert architecture("vit:Ti/4", "--budget") == ("vit", "Ti/4")
