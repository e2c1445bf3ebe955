"""Every architecture leaves as ONNX and is the same there; and a bundle of a real run, evaluated
like the run."""

import numpy as np
import pytest

from tests.support.classifiers import ARCHITECTURES, classifier, images
from vision.export import check
from vision.export import onnx as form
from vision.export.program import served


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parity(name, batch, tmp_path):
    """At one image and at seven, out of a file for any number and out of one for two."""
    model = classifier(name)
    program = served(model)
    pixels = images(model, 7)
    form.write(program, tmp_path / "model.onnx", batch)
    assert check.compare(program, form.load(tmp_path / "model.onnx"), pixels) < 1e-4
    ours = model.probabilities_and_embeddings(pixels)[0]
    np.testing.assert_allclose(program(pixels)[0], ours, atol=1e-5)
    assert np.ptp(ours, axis=0).max() > 1e-3


OPTIONS = [
    ("vit", {"pool": "mean", "positions": "sincos"}),
    ("vit", {"distilled": True}),
    ("resnet", {"gate": "se"}),
    ("resnet", {"gate": "cbam"}),
    ("efficientnet_lite", {"padding": "same"}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_parity_of_options(name, options, tmp_path):
    model = classifier(name, **options)
    program = served(model)
    form.write(program, tmp_path / "model.onnx")
    assert check.compare(program, form.load(tmp_path / "model.onnx"), images(model, 3)) < 1e-4
