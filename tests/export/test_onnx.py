"""An ONNX file computes what JAX does, for any number of images, out of operators that runtimes know."""

import collections

import jax
import numpy as np
import onnx
import pytest

from tests.export.zoo import classifier, images
from vision.errors import UserError
from vision.export import check
from vision.export import onnx as form
from vision.export.program import served


@pytest.mark.parametrize("name", ["mobilenet", "vit"])
def test_it_computes_what_the_classifier_does(name, tmp_path):
    """Temperature, softmax and normalization included; at one image and at several."""
    model = classifier(name)
    program, pixels = served(model), images(model, 5)
    form.write(program, tmp_path / "model.onnx")
    run = form.load(tmp_path / "model.onnx")
    expected = model.probabilities_and_embeddings(pixels)
    for count in (1, 5):
        for ours, theirs in zip(run(pixels[:count]), expected, strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs[:count], atol=1e-5)
    assert check.compare(program, run, pixels) < 1e-5 and check.changed(program, run, pixels) == 0
    assert np.ptp(expected[0], axis=0).max() > 0.01  # or any constant would pass


def kinds(path):
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def test_the_graph_is_simple(tmp_path):
    """Norms are folded into convolutions, activations are operators of their own, and no shape is computed."""
    for name in ("resnet", "mobilenet", "vit"):
        form.write(served(classifier(name)), tmp_path / f"{name}.onnx")
    found = kinds(tmp_path / "resnet.onnx")
    assert not {"BatchNormalization", "Shape", "Max", "Unsqueeze"} & set(found) and found["MaxPool"] == 1
    found = kinds(tmp_path / "mobilenet.onnx")
    assert not {"BatchNormalization", "Shape", "Expand", "Dropout", "Min"} & set(found) and found["HardSigmoid"]
    assert found["Transpose"] <= 4
    found = kinds(tmp_path / "vit.onnx")
    assert found["Gelu"] == 1 and found["LayerNormalization"] == 3 and not {"Erf", "Einsum", "Sqrt"} & set(found)
    assert found["Shape"] <= 1  # of the class token, which is repeated for each image
    model = onnx.load(tmp_path / "vit.onnx")
    assert [entry.domain for entry in model.opset_import] == [""]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_pools_and_adaptive_pools_and_rolled_windows(tmp_path):
    """What jax2onnx spells in ways that ONNX Runtime does not know, or computes from the batch."""
    for name in ("cnn", "swin"):
        model = classifier(name)
        program = served(model)
        form.write(program, tmp_path / f"{name}.onnx")
        assert check.compare(program, form.load(tmp_path / f"{name}.onnx"), images(model, 3)) < 1e-5, name
    assert "Shape" not in kinds(tmp_path / "swin.onnx")


def test_a_fixed_batch_takes_any_number_too(tmp_path):
    model = classifier("vit")
    program = served(model)
    form.write(program, tmp_path / "model.onnx", 4)
    assert onnx.load(tmp_path / "model.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert not {"Shape", "Expand"} & set(kinds(tmp_path / "model.onnx"))
    assert check.compare(program, form.load(tmp_path / "model.onnx"), images(model, 7)) < 1e-5


def test_bfloat16_leaves_as_float32_and_float16_halves_the_file(tmp_path):
    model = classifier("vit", dtype="bfloat16")
    program, pixels = served(model), images(model, 4)
    assert program(pixels)[0].dtype == np.float32
    exact = served(classifier("vit"))(pixels)
    np.testing.assert_allclose(program(pixels)[0], exact[0], atol=1e-6)
    form.write(program, tmp_path / "wide.onnx")
    form.to_float16(tmp_path / "wide.onnx", tmp_path / "half.onnx")
    assert 0 < check.compare(program, form.load(tmp_path / "half.onnx"), pixels) < 1e-2
    assert (tmp_path / "half.onnx").stat().st_size < 0.65 * (tmp_path / "wide.onnx").stat().st_size


class Odd:
    """A layer whose primitive no format has."""

    def __call__(self, x):
        return jax.pure_callback(np.cos, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def test_an_unknown_operation_names_its_place(tmp_path):
    model = classifier("vit")
    embed, odd = type(model.model).embed, Odd()

    class Strange(type(model.model)):
        def embed(self, images):
            return odd(embed(self, images))

    model.model.__class__ = Strange
    with pytest.raises(
        UserError, match=r"ONNX has no operation for JAX's 'pure_callback' \(.*test_onnx.py:\d+, in Odd"
    ) as error:
        form.write(served(model), tmp_path / "model.onnx", 1)
    assert len(str(error.value).splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_a_difference_is_measured_in_either_output():
    model = classifier("vit")
    program, pixels = served(model), images(model, 3)
    probabilities, embedding = program(pixels)
    scale = np.abs(embedding).max()

    def shifted(a, b):
        return lambda batch: (probabilities[: len(batch)] + a, embedding[: len(batch)] + b)

    assert check.compare(program, shifted(0, 0), pixels) == 0
    assert check.compare(program, shifted(0.25, 0), pixels) == pytest.approx(0.25, rel=1e-4)
    assert check.compare(program, shifted(0, scale / 4), pixels) == pytest.approx(0.25, rel=1e-4)
    assert np.isnan(check.compare(program, shifted(np.nan, 0), pixels))
    assert check.changed(program, lambda batch: (-probabilities, embedding), pixels) == 1
    with pytest.raises(ValueError, match="where JAX returns"):
        check.compare(program, lambda batch: (probabilities[:, :2], embedding), pixels)
