"""An ONNX file computes what JAX does, for any number of images, with common operators."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx

from tests.support.classifiers import classifier, images
from vision.errors import UserError
from vision.export import check
from vision.export import onnx as form
from vision.export.program import served


@pytest.mark.parametrize("name", ["mobilenet", "vit"])
def test_it_computes_what_the_classifier_does(name, tmp_path):
    """Temperature, softmax and normalization included; at one image and at several."""
    model = classifier(name)
    program = served(model)
    pixels = images(model, 5)
    form.write(program, tmp_path / "model.onnx")
    run = form.load(tmp_path / "model.onnx")
    expected = model.probabilities_and_embeddings(pixels)
    for count in (1, 5):
        for ours, theirs in zip(run(pixels[:count]), expected, strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs[:count], atol=1e-5)
    assert check.compare(program, run, pixels) < 1e-5
    assert np.ptp(expected[0], axis=0).max() > 0.01  # or any constant would pass


def kinds(path):
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def test_the_graph_is_simple(tmp_path):
    """Norms are folded, activations are single operators, and no shape is computed."""
    for name in ("resnet", "mobilenet", "vit"):
        form.write(served(classifier(name)), tmp_path / f"{name}.onnx")
    counts = kinds(tmp_path / "resnet.onnx")
    assert not {"BatchNormalization", "Shape", "Max", "Unsqueeze"} & set(counts)
    assert counts["MaxPool"] == 1
    counts = kinds(tmp_path / "mobilenet.onnx")
    assert not {"BatchNormalization", "Shape", "Expand", "Dropout", "Min"} & set(counts)
    assert counts["HardSigmoid"] and counts["Transpose"] <= 4
    counts = kinds(tmp_path / "vit.onnx")
    assert counts["Gelu"] == 1 and counts["LayerNormalization"] == 3
    assert not {"Erf", "Einsum", "Sqrt"} & set(counts)
    assert counts["Shape"] <= 1  # of the class token, which is repeated for each image
    model = onnx.load(tmp_path / "vit.onnx")
    assert [entry.domain for entry in model.opset_import] == [""]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("name", ["resnet", "vit"])
@pytest.mark.parametrize("normalize", ["mean_std", "symmetric", "unit"])
def test_pixels_are_normalized_by_one_product_and_one_sum(name, normalize, tmp_path):
    model = classifier(name)
    model.config.data.normalize = normalize
    model.config.data.mean = (0.485, 0.456, 0.406)
    model.config.data.std = (0.229, 0.224, 0.225)
    program = served(model)
    pixels = images(model, 3)
    form.write(program, tmp_path / "model.onnx")
    assert check.compare(program, form.load(tmp_path / "model.onnx"), pixels) < 1e-5
    graph = onnx.load(tmp_path / "model.onnx").graph
    kinds = [node.op_type for node in graph.node[:3]]
    # "unit" is only a product
    assert kinds[0] == "Cast" and (kinds[1:] == ["Mul", "Add"]) == (normalize != "unit")


def test_pools_and_adaptive_pools_and_rolled_windows(tmp_path):
    """What jax2onnx writes unsupported by ONNX Runtime, or computes from the batch."""
    for name in ("cnn", "swin"):
        model = classifier(name)
        program = served(model)
        form.write(program, tmp_path / f"{name}.onnx")
        run = form.load(tmp_path / f"{name}.onnx")
        assert check.compare(program, run, images(model, 3)) < 1e-5, name
    assert "Shape" not in kinds(tmp_path / "swin.onnx")


def test_a_fixed_batch_takes_any_number_too(tmp_path):
    model = classifier("vit")
    program = served(model)
    form.write(program, tmp_path / "model.onnx", 4)
    (taken,) = onnx.load(tmp_path / "model.onnx").graph.input
    assert taken.type.tensor_type.shape.dim[0].dim_value == 4
    assert not {"Shape", "Expand"} & set(kinds(tmp_path / "model.onnx"))
    assert check.compare(program, form.load(tmp_path / "model.onnx"), images(model, 7)) < 1e-5


def test_bfloat16_leaves_as_float32_and_float16_halves_the_file(tmp_path):
    model = classifier("vit", dtype="bfloat16")
    program = served(model)
    pixels = images(model, 4)
    assert program(pixels)[0].dtype == np.float32
    exact = served(classifier("vit"))(pixels)
    np.testing.assert_allclose(program(pixels)[0], exact[0], atol=1e-6)
    form.write(program, tmp_path / "wide.onnx")
    form.to_float16(tmp_path / "wide.onnx", tmp_path / "half.onnx")
    assert 0 < check.compare(program, form.load(tmp_path / "half.onnx"), pixels) < 1e-2
    assert (tmp_path / "half.onnx").stat().st_size < 0.65 * (tmp_path / "wide.onnx").stat().st_size


class Odd:
    """A layer whose primitive jax2onnx does not know."""

    def __call__(self, x):
        return jax.pure_callback(np.cos, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


class Spectral:
    """One whose primitive it knows, but not for two axes.

    JAX records where the inner function was traced first.
    """

    def __call__(self, x):
        return _two_axes(x)


def _two_axes(x):
    return jnp.fft.fft2(x, axes=(0, 1)).real


class Repeated:
    """One that it cannot trace if the batch size is free."""

    def __call__(self, x):
        return jax.image.resize(x, (x.shape[0], x.shape[1]), "lanczos3")


class Bits:
    """One that it converts to something ONNX Runtime cannot read."""

    def __call__(self, x):
        return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, jnp.int32), jnp.float32)


HERE = r".*test_onnx.py:\d+, in "
TWO_AXES = rf"{HERE}_two_axes of Spectral.__call__"
REFUSED = [
    (Odd, 1, rf"ONNX has no operation for JAX's 'pure_callback' \({HERE}Odd.__call__\)$"),
    (Spectral, 1, rf"JAX's 'fft' cannot be written as ONNX \({TWO_AXES}\): Only 1D FFT"),
    (
        Repeated,
        0,
        rf"cannot be written as ONNX \({HERE}Repeated.__call__\): Symbolic dim.*, --batch 1 helps$",
    ),
    (
        Bits,
        1,
        r"(?s)cannot read what jax2onnx made.*\n"
        rf"It is JAX's 'bitcast_.*' \({HERE}Bits.__call__\)$",
    ),
]


@pytest.mark.parametrize(
    ("layer", "batch", "message"), REFUSED, ids=lambda value: getattr(value, "__name__", "")
)
def test_an_operation_that_cannot_be_written_names_its_place(layer, batch, message, tmp_path):
    model = classifier("cnn")
    odd = layer()
    embed = type(model.model).embed

    class Strange(type(model.model)):
        def embed(self, images):
            return odd(embed(self, images))

    model.model.__class__ = Strange
    with pytest.raises(UserError, match=message) as error:
        form.write(served(model), tmp_path / "model.onnx", batch)
    assert len(str(error.value).splitlines()) <= 2 and list(tmp_path.iterdir()) == []


def test_jax_is_left_as_it_was(tmp_path):
    """One of jax2onnx's plugins replaced `jnp.cumsum` by one without a positional axis."""
    before = {module: dict(vars(module)) for module in (jnp, jax.lax, jax.nn, nnx, np)}
    model = form._convert(lambda x: jnp.cumsum(x, -1), [jax.ShapeDtypeStruct((2, 3), np.float32)])
    assert {node.op_type for node in model.graph.node} == {"CumSum"}
    for module, names in before.items():
        assert [name for name in names if getattr(module, name) is not names[name]] == []


def test_a_difference_is_measured_in_either_output():
    model = classifier("vit")
    program = served(model)
    pixels = images(model, 3)
    probabilities, embedding = program(pixels)
    scale = np.abs(embedding).max()

    def shifted(a, b):
        return lambda batch: (probabilities[: len(batch)] + a, embedding[: len(batch)] + b)

    assert check.compare(program, shifted(0, 0), pixels) == 0
    assert check.compare(program, shifted(0.25, 0), pixels) == pytest.approx(0.25, rel=1e-4)
    assert check.compare(program, shifted(0, scale / 4), pixels) == pytest.approx(0.25, rel=1e-4)
    assert np.isnan(check.compare(program, shifted(np.nan, 0), pixels))
    calls = []

    def half(batch):
        calls.append(len(batch))
        negated = np.concatenate([-probabilities[:1], probabilities[1:]])
        return negated[: len(batch)], embedding[: len(batch)]

    result = check.measure(program, half, pixels)
    assert result["classes_changed"] == pytest.approx(1 / 3) and calls == [1, 3]
    assert result["largest_difference"] == pytest.approx(2 * probabilities[0].max())
    with pytest.raises(ValueError, match="but JAX returns"):
        check.compare(program, lambda batch: (probabilities[:, :2], embedding), pixels)
