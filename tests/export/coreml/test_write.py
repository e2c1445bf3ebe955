"""An `.mlpackage` gives, interpreted, what JAX gives, and says to Core ML what a classifier is.

All architectures: tests/slow/test_coreml.py.
"""

import json
import pathlib
import shutil

import coremltools
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.classifiers import classifier
from tests.support.programs import images, linear, program_of
from vision import cli
from vision.bundle.directory import MANIFEST, open_bundle, read_manifest
from vision.errors import UserError
from vision.export import __main__ as command
from vision.export import coreml
from vision.export.check import compare, measure
from vision.export.coreml.package import Package
from vision.export.options import PRECISIONS
from vision.export.program import served
from vision.support.digest import sha256

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    """(the program of a convolutional net, its package)."""
    path = tmp_path_factory.mktemp("cnn") / coreml.NAME
    cnn = served(classifier("cnn"))
    coreml.write(cnn, path)
    return cnn, path


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """(a program whose matrix is large enough to be quantized, {precision: its package})."""
    kernel = np.random.default_rng(0).normal(size=(64, 1000)).astype(np.float32)

    def function(images):
        embedding = images.reshape(images.shape[0], -1) / jnp.float32(255)
        return jax.nn.softmax(0.1 * (embedding @ kernel)), embedding

    program = program_of(function, classes=1000)
    folder = tmp_path_factory.mktemp("wide")
    paths = {name: folder / name / coreml.NAME for name in PRECISIONS}
    for name, path in paths.items():
        path.parent.mkdir()
        coreml.write(program, path, precision=name)
    return program, paths


def test_it_gives_what_jax_gives(cnn):
    program, path = cnn
    pixels = images(5, 32)
    probabilities, embedding = coreml.load(path)(pixels)
    assert probabilities.dtype == embedding.dtype == np.float32
    assert probabilities.max(1).min() > 0.15  # not all the same
    expected, reference = program(pixels)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(embedding, reference, rtol=1e-5, atol=1e-6)
    outputs = Package(path)(pixels[0])
    assert outputs["classLabel"] == program.classes[expected[0].argmax()]
    assert list(outputs["classLabel_probs"]) == list(program.classes)
    assert list(path.parent.iterdir()) == [path]


def test_coremltools_reads_it_as_a_classifier_of_images(cnn):
    program, path = cnn
    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    assert spec.specificationVersion == coremltools.target.iOS18
    described = spec.description
    (image,) = described.input
    assert image.name == "image"
    kind = image.type.imageType
    assert (kind.width, kind.height) == (32, 32)
    assert kind.colorSpace == kind.ColorSpace.Value("RGB")
    assert [output.name for output in described.output] == [
        "classLabel",
        "classLabel_probs",
        "embedding",
    ]
    assert described.predictedFeatureName == "classLabel"
    assert described.predictedProbabilitiesName == "classLabel_probs"
    assert described.output[0].type.WhichOneof("Type") == "stringType"
    assert described.output[1].type.dictionaryType.WhichOneof("KeyType") == "stringKeyType"
    assert Package(path).classes == program.classes
    assert dict(model.user_defined_metadata)["crop_fraction"] == "1.0"


def test_a_gray_model_takes_gray_images(tmp_path):
    program = program_of(linear)
    coreml.write(program, tmp_path / coreml.NAME)
    assert compare(program, coreml.load(tmp_path / coreml.NAME), images(4, 8, 1)) < 1e-6
    spec = coremltools.utils.load_spec(str(tmp_path / coreml.NAME))
    kind = spec.description.input[0].type.imageType
    assert kind.colorSpace == kind.ColorSpace.Value("GRAYSCALE")
    package = Package(tmp_path / coreml.NAME)
    with pytest.raises(UserError, match=r"takes uint8 \(8, 8, 1\), not uint8 \(8, 8, 3\)"):
        package(images(1, 8, 3)[0])


def test_float16_and_int8_are_near_and_small(wide):
    program, paths = wide
    pixels = images(20, 8, 1)
    differences = {name: measure(program, coreml.load(p), pixels) for name, p in paths.items()}
    shifts = {name: result["largest_difference"] for name, result in differences.items()}
    assert shifts["float32"] < 1e-6
    assert 1e-5 < shifts["float16"] < 1e-3  # float16 has steps of 1e-3
    assert 1e-5 < shifts["int8"] < 2e-3
    sizes = {
        name: next(path.rglob("weight.bin")).stat().st_size / 64_000 for name, path in paths.items()
    }
    assert 4 < sizes["float32"] < 4.2 and 2 < sizes["float16"] < 2.2 and 1 < sizes["int8"] < 1.2


def test_int8_has_a_scale_for_each_output(wide):
    """Symmetric: a step is 1/127.5 of the largest weight of a column, itself in float16."""
    package = Package(wide[1]["int8"])
    assert "constexpr_blockwise_shift_scale" in package.kinds
    (matrix,) = [v for v in package._constants.values() if np.shape(v) == (1000, 64)]
    kernel = np.random.default_rng(0).normal(size=(64, 1000)).astype(np.float32)
    steps = np.abs(kernel).max(0)[:, None] / 127.5
    errors = np.abs(matrix - kernel.T) / steps
    assert 0.4 < errors.max() < 0.6


def output(x):
    """Returns probabilities and an embedding."""
    embedding = x.reshape(x.shape[0], -1)
    return jax.nn.softmax(embedding[:, :10]), embedding


class Spectral:
    """A layer whose primitive Core ML does not have."""

    def __call__(self, x):
        return jnp.fft.rfft(x, axis=1).real


class Deep:
    """One that it has, but not for arrays of six dimensions, to which it can reshape."""

    def __call__(self, x):
        blocks = x.reshape(x.shape[0], 2, 4, 2, 4, -1)
        return jnp.tanh(blocks.swapaxes(2, 3)).reshape(x.shape)


@pytest.mark.parametrize(("layer", "primitive"), [(Spectral, "fft"), (Deep, "tanh")])
def test_an_operation_that_core_ml_lacks_is_named_with_its_place(layer, primitive, tmp_path):
    odd = layer()
    program = program_of(lambda images: output(odd(images.astype(jnp.float32))))
    where = rf"test_write.py:\d+, in {layer.__name__}.__call__"
    with pytest.raises(
        UserError, match=rf"^Core ML has no operation for JAX's '{primitive}' \(.*{where}\)$"
    ):
        coreml.write(program, tmp_path / coreml.NAME)
    assert list(tmp_path.iterdir()) == []


def test_an_operation_that_the_interpreter_lacks_is_named(tmp_path):
    program = program_of(lambda images: linear(jnp.sort(images.astype(jnp.float32), 1)))
    coreml.write(program, tmp_path / coreml.NAME)
    with pytest.raises(UserError, match="the interpreter of MIL has no operation 'argsort'"):
        coreml.load(tmp_path / coreml.NAME)


def truncate(path):
    """Halves a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["Manifest.json", "weight.bin", "model.mlmodel"])
@pytest.mark.parametrize("damage", [truncate, pathlib.Path.unlink])
def test_a_damaged_package_is_refused(wide, name, damage, tmp_path):
    path = shutil.copytree(wide[1]["float32"], tmp_path / coreml.NAME)
    damage(next(path.rglob(name)))
    with pytest.raises(UserError, match=rf"{coreml.NAME} cannot be loaded: export it again"):
        coreml.load(path)


def test_it_is_part_of_a_bundle(tiny_run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "digits"
    interpret = Package.__call__
    interpreted = []

    def count(package, image):
        interpreted.append(image)
        return interpret(package, image)

    monkeypatch.setattr(Package, "__call__", count)
    argv = ["--workdir", str(tiny_run), "--format=coreml", "--precision=int8", "--out", str(out)]
    cli.run(command.main, argv)
    printed = capsys.readouterr().out
    assert "model.mlpackage: checked by an interpreter of its program" in printed
    assert "Apple's runtime was not run" in printed and "vision.predict" not in printed
    manifest = read_manifest(out)
    assert manifest.model == coreml.MODEL_FILE
    files = [p for p in out.rglob("*") if p.is_file() and p.name != MANIFEST]
    assert manifest.sha256 == {p.relative_to(out).as_posix(): sha256(p) for p in files}
    checked = json.loads((out / MANIFEST).read_text())["quality"]["exported"][coreml.NAME]
    assert checked["images"] > 1 and checked["classes_changed"] < 0.1
    # of the reference's 1,000 images it is too slow
    assert len(interpreted) == checked["images"] + 2  # one of them alone, and the sample
    assert manifest.reference["images"] == 1000
    with pytest.raises(UserError, match="cannot be run: a bundle's model is .onnx or .tflite"):
        open_bundle(out)
