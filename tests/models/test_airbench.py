"""airbench against PyTorch's own layers (make_references.py), its whitening on real images, and how
it begins."""

import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from tests.support.references import load, to_ours
from vision import models
from vision.config import default
from vision.data.augment import normalize, views
from vision.errors import UserError
from vision.models.airbench import Airbench, WhiteningConv, halve, partial_identity
from vision.models.layers.norms import BatchNorm
from vision.models.layers.streams import Streams
from vision.objectives.supervised import Supervised
from vision.training.state import StateSpec

DEPTHS = {"airbench": 2, "airbench_deep": 3}
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def torch_name(path):
    name = ".".join(map(str, path)).replace("head", "fc").replace("kernel", "weight")
    return re.sub(r"(mean|var)$", r"running_\1", name)


@pytest.fixture(scope="module", params=DEPTHS)
def pair(request):
    """Returns (model with the reference's weights, reference)."""
    depth = DEPTHS[request.param]
    return load(
        request.param,
        lambda: Airbench((4, 6, 8), depth, 5, momentum=0.6, rngs=Streams(0)),
        torch_name,
    )


def outputs(model, images):
    """What make_references.py stores, from our model."""
    maps = model.features(images)
    assert list(maps) == ["whiten", "groups.0", "groups.1", "groups.2"]
    result = {f"outputs/{name}": x for name, x in maps.items() if name != "whiten"}
    for name in ("none", "flip", "flip_shift"):  # the reference has
        result[f"views/{name}"] = sum(
            w * model(view) for w, view in views.test_time_views(name, images)
        )
    return result | {"outputs/embedding": model.embed(images), "outputs/logits": model(images)}


def test_each_layer_and_the_test_time_views(pair):
    model = nnx.clone(pair[0])
    reference = pair[1]
    model.eval()
    ours = jax.jit(lambda images: outputs(model, images))(reference["images"])
    assert sorted(ours) == sorted(k for k in reference if k.startswith(("outputs/", "views/")))
    for name, value in ours.items():
        np.testing.assert_allclose(value, reference[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_gradients_and_running_statistics_of_a_training_step(pair):
    model, reference = pair
    graph, params, rest = nnx.split(nnx.clone(model), nnx.Param, ...)

    @jax.jit
    def step(params, rest):
        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            model.train()
            value = -np.eye(5)[reference["labels"]] * jax.nn.log_softmax(model(reference["images"]))
            return value.sum(-1).mean(), nnx.state(model, nnx.BatchStat)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, statistics), gradients = step(params, rest)
    np.testing.assert_allclose(loss, reference["train/loss"], rtol=1e-5)
    learned = {torch_name(path): np.asarray(g[...]) for path, g in nnx.to_flat_state(gradients)}
    assert "whiten.bias" in learned and "whiten.weight" not in learned
    assert sorted(f"train/gradients/{name}" for name in learned) == sorted(
        k for k in reference if "/gradients/" in k
    )
    for name, gradient in learned.items():
        expected = to_ours(reference[f"train/gradients/{name}"])
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5, err_msg=name)
    for path, variable in nnx.to_flat_state(statistics):
        name = torch_name(path)
        new = np.array(variable[...])
        if path[-1] == "var":  # PyTorch averages the unbiased estimate, Flax the biased one
            count = len(reference["images"]) * (12 // 2 ** path[1]) ** 2
            old = reference[f"weights/{name}"]
            new = 0.6 * old + (new - 0.6 * old) * count / (count - 1)
        np.testing.assert_allclose(
            new, reference[f"train/{name}"], rtol=1e-5, atol=1e-5, err_msg=name
        )


# Variants


def abstract(variant, classes=10, size=32, channels=3, **keys):
    c = default().model
    c.update(name="airbench", variant=variant, **keys)
    return nnx.eval_shape(lambda: models.build(c, classes, size, channels, Streams(0)))


@pytest.mark.parametrize(
    "variant, count",
    [("94", 1_971_352), ("95", 4_604_440), ("96", 9_915_416)],
    ids=lambda value: str(value),
)
def test_parameter_count(variant, count):
    """As PyTorch counts what learns in the author's nets."""
    leaves = jax.tree.leaves(nnx.state(abstract(variant), nnx.Param))
    assert sum(leaf.size for leaf in leaves) == count
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size, channels", [(28, 1), (32, 3), (9, 3)])
def test_shapes_and_dtypes(size, channels, dtype):
    graph, state = nnx.split(abstract("96", 7, size, channels, dtype=dtype, batch_norm_groups=2))

    def both(state, images):
        model = nnx.merge(graph, state, copy=True)
        return model.embed(images), model(images)

    images = jax.ShapeDtypeStruct((4, size, size, channels), jnp.dtype(dtype))
    embedding, logits = jax.eval_shape(both, state, images)
    assert (embedding.shape, embedding.dtype) == ((4, 512), jnp.float32)
    assert (logits.shape, logits.dtype) == ((4, 7), jnp.float32)


@pytest.mark.parametrize(
    "variant, keys, message",
    [
        ("93", {}, "model.variant = '93' is unknown.*94"),
        ("94", {"size": 8}, "9 px or more.*not 8"),
        ("94", {"batch_norm_groups": 0}, "batch_norm_groups must be .*, got 0"),
        ("94", {"pool": "mean"}, "no option 'pool'; its options: batch_norm_groups"),
    ],
)
def test_user_errors(variant, keys, message):
    with pytest.raises(UserError, match=message):
        abstract(variant, **keys)


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_without_scale(groups):
    """Against the formula; an epsilon that cannot be overlooked."""
    norm = BatchNorm(3, groups=groups, momentum=0.6, epsilon=0.5, use_scale=False, rngs=Streams(0))
    norm.bias[...] = jnp.array([1.0, 0.0, -1.0])
    x = np.random.default_rng(0).normal(2, 3, (groups, 4, 2, 2, 3)).astype(np.float32)
    mean = x.mean((1, 2, 3), keepdims=True)
    var = x.var((1, 2, 3), keepdims=True)
    expected = (x - mean) / np.sqrt(var + 0.5) + [1, 0, -1]
    np.testing.assert_allclose(
        norm(x.reshape(-1, 2, 2, 3)).reshape(x.shape), expected, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(norm.mean[...], 0.4 * mean.mean(0).ravel(), rtol=1e-4)
    np.testing.assert_allclose(norm.var[...], 0.6 + 0.4 * var.mean(0).ravel(), rtol=1e-4)


# How it begins


@pytest.mark.parametrize("outputs", [2, 5])
def test_filters_begin_as_copies_while_there_are_channels(outputs):
    kernel = np.asarray(
        jax.jit(partial_identity, static_argnums=1)(jax.random.key(0), (3, 3, 3, outputs))
    )
    copied = min(3, outputs)
    np.testing.assert_array_equal(kernel[1, 1, :, :copied], np.eye(3)[:, :copied])
    assert np.count_nonzero(kernel[..., :copied]) == copied
    rest = kernel[..., copied:]
    # PyTorch's: within 1 / sqrt(inputs)
    assert rest.size == 0 or 0.9 < np.abs(rest).max() * 27**0.5 <= 1


def test_halve_leaves_an_odd_border_out():
    x = np.random.default_rng(0).normal(size=(2, 6, 7, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        jax.jit(halve)(x), x[:, :, :6].reshape(2, 3, 2, 3, 2, 3).max((2, 4))
    )


@pytest.fixture(scope="module")
def cifar(shared_data):
    """Returns 500 training images of CIFAR-10, of all classes, normalized as the config does."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(shared_data / "cifar10-train.parquet", columns=["image"])
    rows = table["image"].take(np.arange(0, 50_000, 100)).to_pylist()
    images = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in rows])
    return np.asarray(normalize(images, "mean_std", MEAN, STD))


def patches(images, kernel):
    """All patches of 2 x 2, float64 (N, 12), in the order of a kernel's (2, 2, C, F) first three
    axes; and (12, F)."""
    windows = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), (2, 2), (1, 2))
    return np.moveaxis(windows, 3, -1).reshape(-1, 12), np.asarray(kernel, np.float64).reshape(
        12, -1
    )


@pytest.fixture(scope="module")
def whitened(cifar):
    """Returns the convolution after it has seen the images."""

    @jax.jit
    def kernel(images):
        conv = WhiteningConv(3, dtype=jnp.float32, rngs=Streams(0))
        conv.initialize_from_data(images)
        return conv.kernel[...]

    conv = WhiteningConv(3, dtype=jnp.float32, rngs=Streams(0))
    conv.kernel[...] = kernel(cifar)
    return conv


def test_the_first_convolution_whitens_real_images(cifar, whitened):
    flat, filters = patches(cifar, whitened.kernel[...])
    np.testing.assert_array_equal(filters[:, 12:], -filters[:, :12])
    moments = flat.T @ flat / len(flat)
    filters = filters[:, :12]
    # Whatever the axes' signs: the filters' squares are the inverse of the regularized moments.
    np.testing.assert_allclose(
        filters @ filters.T @ (moments + 5e-4 * np.eye(12)), np.eye(12), atol=2e-3
    )
    variances = np.linalg.eigvalsh(moments)[::-1]
    result = filters.T @ moments @ filters
    np.testing.assert_allclose(result, np.diag(variances / (variances + 5e-4)), atol=1e-3)
    # nearly white where patches differ at all
    np.testing.assert_allclose(np.diag(result)[:6], 1, atol=0.02)


def test_the_whitening_is_a_convolution_of_the_patches(cifar, whitened):
    flat, filters = patches(cifar[:2], whitened.kernel[...])
    np.testing.assert_allclose(
        np.asarray(whitened(cifar[:2])).reshape(-1, 24), flat @ filters, rtol=1e-4, atol=1e-4
    )
    before = WhiteningConv(3, dtype=jnp.float32, rngs=Streams(0))  # lets the patches through
    np.testing.assert_allclose(before(cifar[:2])[..., :3], cifar[:2, :-1, :-1], atol=1e-6)


def test_the_trainer_keeps_the_whitening_beside_the_parameters():
    spec = StateSpec(lambda: Supervised(Airbench((4, 4, 4), 2, 10, momentum=0.6, rngs=Streams(0))))
    assert spec.adapts_to_data

    def initialize(images):
        objective = spec.merge(*spec.initialize(), jax.random.key(0))
        objective.model.initialize_from_data(images)
        return spec.take_apart(objective)

    params, rest = jax.eval_shape(initialize, jax.ShapeDtypeStruct((6, 9, 9, 3), jnp.bfloat16))
    assert set(params["model"]["whiten"]) == {"bias"}
    kernel = rest["model"]["whiten"]["kernel"]
    assert (kernel.shape, kernel.dtype) == ((2, 2, 3, 24), jnp.float32)


def test_whitening_of_equal_images_stays_finite():
    conv = WhiteningConv(3, dtype=jnp.float32, rngs=Streams(0))
    conv.initialize_from_data(jnp.ones((3, 4, 4, 3)))
    assert (
        np.isfinite(conv.kernel[...]).all() and np.abs(conv.kernel[...]).max() <= 1.01 / 5e-4**0.5
    )
