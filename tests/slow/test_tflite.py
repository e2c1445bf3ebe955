"""Every architecture in LiteRT and in serialized StableHLO: what JAX gives, whatever the batch."""

import numpy as np
import pytest

from tests.support.classifiers import ARCHITECTURES, classifier
from tests.support.programs import images
from vision.export import stablehlo, tflite
from vision.export.check import compare
from vision.export.program import served
from vision.export.tflite_int8 import quantize


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name, tmp_path):
    program = served(classifier(name))
    size = program.image_size
    assert program(images(5, size))[0].std(0).max() > 1e-4  # the images are told apart
    for batch in (1, 4):
        tflite.write(program, tmp_path / tflite.NAME, batch)
        assert (
            compare(program, tflite.load(tmp_path / tflite.NAME), images(5, size))
            < tflite.TOLERANCE["float32"]
        )
    stablehlo.write(program, tmp_path / stablehlo.NAME)
    run = stablehlo.load(tmp_path / stablehlo.NAME)
    for count in (1, 4):
        assert compare(program, run, images(count, size)) < stablehlo.TOLERANCE["float32"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_int8(name, tmp_path):
    program = served(classifier(name))
    tflite.write(program, tmp_path / "wide.tflite")
    given = images(60, program.image_size)
    quantize(tmp_path / "wide.tflite", tmp_path / tflite.NAME, given)
    probabilities, _ = tflite.load(tmp_path / tflite.NAME)(given)
    assert np.abs(probabilities - program(given)[0]).mean() < 0.015
