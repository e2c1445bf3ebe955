"""Heat maps against computations of their own, and what any of them promises, for every
architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.architectures import filled
from vision import inference, models
from vision.config import default
from vision.data.augment import normalize
from vision.explain import explainer as explain
from vision.explain.heat_maps import OF_ANY_CLASS, OF_CLASS, heat_maps
from vision.models import vit
from vision.models.layers.streams import Streams

SIDE = 16
CLASSES = ("a", "b", "c")
IMAGES = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
LABELS = np.array([0, 2, 1, 2])


def classifier(create, side=SIDE, channels=3):
    """A `Classifier` of a tiny model with random parameters."""
    c = default()
    c.data.normalize = "symmetric"
    c.model.dtype = "float32"
    model = filled(create)
    model.eval()
    return inference.Classifier(c, model, CLASSES, side, channels)


def tiny_vit(**options):
    return vit.ViT(8, 2, 2, 4, len(CLASSES), rngs=Streams(0), image_size=SIDE, **options)


class Net(nnx.Module):
    """The smallest model that keeps the contract: a convolution; its pooled square, so that the
    gradient varies."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 5, (3, 3), strides=4, rngs=rngs)
        self.head = nnx.Linear(5, len(CLASSES), rngs=rngs)

    def features(self, images):
        return {"conv": self.conv(images)}

    def pool(self, x):
        return jnp.square(x).mean((1, 2))

    def embed(self, images):
        return self.pool(self.features(images)["conv"])

    def __call__(self, images):
        return self.head(self.embed(images))


class Bare(nnx.Module):
    """A research module, as the README has it: no features, no pool."""

    def __init__(self, rngs):
        self.head = nnx.Linear(SIDE * SIDE * 3, len(CLASSES), rngs=rngs)

    def embed(self, images):
        return images.reshape(len(images), -1)

    def __call__(self, images):
        return self.head(self.embed(images))


class Odd(Net):
    """A research module that means something else by `features`."""

    def features(self, images):
        return self.conv(images)


def create(module, rngs=0):
    return lambda: module(nnx.Rngs(rngs))


def normalized(images):
    return normalize(images, "symmetric")


def test_grad_cam_is_the_paper_s_sum():
    """Against NumPy, with the gradient by central differences in float64, one position and channel
    at a time."""
    net = classifier(create(Net))
    maps = np.asarray(net.model.features(normalized(IMAGES))["conv"], np.float64)
    kernel, bias = (
        np.asarray(p[...], np.float64) for p in (net.model.head.kernel, net.model.head.bias)
    )

    def logit(x, label):
        return ((x**2).mean((0, 1)) @ kernel + bias)[label]

    expected = np.zeros(maps.shape[:3])
    for b, label in enumerate(LABELS):
        gradient = np.zeros(maps.shape[1:])
        step = 1e-4
        for index in np.ndindex(gradient.shape):
            moved = np.zeros(gradient.shape)
            moved[index] = step
            gradient[index] = (logit(maps[b] + moved, label) - logit(maps[b] - moved, label)) / (
                2 * step
            )
        expected[b] = np.maximum((maps[b] * gradient.mean((0, 1))).sum(-1), 0)
    ours = jax.jit(lambda *x: explain.grad_cam(net.model, *x))(normalized(IMAGES), LABELS)
    assert expected.any() and (expected == 0).any()
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5 * expected.max())


def attention_by_hand(block, x):
    """Attention's probabilities of one image's tokens x (N, D), head by head, in NumPy: (heads, N,
    N)."""
    attention = block.attention
    qkv = x @ np.asarray(attention.qkv.kernel[...]) + np.asarray(attention.qkv.bias[...])
    query, key, _ = np.split(qkv, 3, axis=-1)
    depth = query.shape[-1] // attention.heads
    probabilities = []
    for head in range(attention.heads):
        part = slice(head * depth, (head + 1) * depth)
        scores = np.exp(query[:, part] @ key[:, part].T / np.sqrt(depth))
        probabilities.append(scores / scores.sum(-1, keepdims=True))
    return np.stack(probabilities)


@pytest.mark.parametrize("options", [{}, {"pool": "mean"}, {"distilled": True}])
def test_rollout_is_the_plain_loop(options):
    model = classifier(lambda: tiny_vit(**options)).model
    images = normalized(IMAGES)

    @jax.jit
    def run(images):
        maps = list(model.features(images).values())[:-1]
        normed = [block.norm1(x) for block, x in zip(model.blocks, maps, strict=True)]
        probabilities = [
            b.attention.probabilities(x) for b, x in zip(model.blocks, normed, strict=True)
        ]
        return normed, explain.rollout(probabilities), explain.attention_heat(model, images)

    normed, shares, heat = jax.device_get(run(images))
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    skip = {"{}": 1, "{'pool': 'mean'}": 0, "{'distilled': True}": 2}[str(options)]
    for i in range(len(images)):
        expected = np.eye(shares.shape[-1])
        for block, x in zip(model.blocks, normed, strict=True):
            by_hand = attention_by_hand(block, x[i]).mean(0) + np.eye(len(expected))
            expected = (by_hand / by_hand.sum(-1, keepdims=True)) @ expected
        np.testing.assert_allclose(shares[i], expected, rtol=1e-3, atol=1e-6)
        row = (expected[0] if skip else expected.mean(0))[skip:]
        assert row.size == model.grid**2
        np.testing.assert_allclose(heat[i].ravel(), row - row.min(), rtol=1e-2, atol=1e-6)


def test_probabilities_are_what_attention_uses():
    """Applied to the values, they give what the block's own forward pass gives."""
    attention = classifier(tiny_vit).model.blocks[0].attention
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 17, 8)), jnp.float32)
    value = attention.qkv(x).reshape(2, 17, 3, 2, 4)[:, :, 2]
    mixed = jnp.einsum("bhqk,bkhd->bqhd", attention.probabilities(x), value).reshape(2, 17, 8)
    np.testing.assert_allclose(attention.out(mixed), attention(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (create(Net), explain.GRAD_CAM),
        (tiny_vit, explain.ROLLOUT),
        (lambda: tiny_vit(pool="mean"), explain.ROLLOUT),
    ],
)
def test_heat_maps(make, method):
    explainer = explain.explainer(classifier(make))
    heat = explainer(IMAGES, LABELS)
    assert (
        explainer.method == method and heat.shape == IMAGES.shape[:3] and heat.dtype == np.float32
    )
    assert heat.min() >= 0 and heat.max() <= 1
    np.testing.assert_allclose(heat.max((1, 2)), 1, rtol=1e-6)
    again = explainer(IMAGES[::-1], LABELS[::-1])[::-1]
    np.testing.assert_allclose(again, heat, atol=1e-4)  # each image's is its own
    other = explainer(IMAGES, (LABELS + 1) % 3)
    assert (np.abs(other - heat).max() > 0.1) == (method == explain.GRAD_CAM)


@pytest.mark.parametrize(
    ("make", "caption"),
    [(create(Net), OF_CLASS), (tiny_vit, OF_ANY_CLASS)],
)
def test_the_caption_says_whether_the_map_is_of_the_class(make, caption):
    maps = heat_maps(classifier(make), "run", "--heat-map", "--heatmap")
    assert maps.caption == caption
    other = maps(IMAGES, (LABELS + 1) % 3)
    is_same = np.abs(other - maps(IMAGES, LABELS)).max() < 0.1
    assert is_same == ("whatever the class" in caption)


def test_no_heat_stays_none():
    net = classifier(create(Net))
    net.model.head.kernel[...] = jnp.zeros_like(net.model.head.kernel[...])
    assert not explain.explainer(net)(IMAGES, LABELS).any()


@pytest.mark.parametrize(
    ("name", "variant", "side", "method"),
    [
        ("airbench", "mu", 32, "Grad-CAM"),
        ("alexnet", "mu", 96, "Grad-CAM"),
        ("cnn", "mu", 32, "Grad-CAM"),
        ("convnext", "mu", 64, "Grad-CAM"),
        ("efficientnet", "mu", 64, "Grad-CAM"),
        ("efficientnet_lite", "mu", 64, "Grad-CAM"),
        ("inception", "mu", 107, "Grad-CAM"),
        ("mobilenet", "mu", 64, "Grad-CAM"),
        ("resnet", "cifar20", 32, "Grad-CAM"),
        ("swin", "mu", 64, "Grad-CAM"),
        ("vgg", "mu", 64, "Grad-CAM"),
        ("vgg", "mu", 32, None),  # its last map is one pixel
        ("vit", "mu/16", 64, "attention rollout"),
        ("wide_resnet", "mu", 32, "Grad-CAM"),
    ],
)
def test_every_architecture(name, variant, side, method):
    c = default()
    c.model.name = name
    c.model.variant = variant
    model = nnx.eval_shape(lambda: models.build(c.model, len(CLASSES), side, 3, Streams(0)))
    model.eval()
    explainer = explain.explainer(inference.Classifier(c, model, CLASSES, side, 3))
    assert (explainer and explainer.method) == method


@pytest.mark.parametrize("module", [Bare, Odd])
def test_a_research_module_has_no_explanation(module):
    assert explain.explainer(classifier(create(module))) is None


class Patch:
    """Stands for a classifier: the probability of class 1 is the mean of the upper left quarter."""

    def probabilities_and_embeddings(self, images):
        p = images[:, :8, :8].mean((1, 2, 3)) / 255
        return np.stack([1 - p, p], 1), images[:, 0, 0]


def test_deletion_follows_what_the_classifier_looks_at():
    images = np.zeros((2, 16, 16, 1), np.uint8)
    images[:, :8, :8] = 255
    heat = np.zeros((2, 16, 16))
    heat[0, :8, :8] = heat[1, 8:, 8:] = 1
    curves = explain.deletion_curves(Patch(), images, heat, np.array([1, 1]), steps=4)
    assert curves.shape == (2, 5) and (curves[:, 0] == 1).all()
    # the quarter that counts goes first, or not
    assert curves[0, 1] == curves[0, -1] < curves[1, 1] == 1
    assert curves[1, -1] == curves[0, -1]  # all is deleted
    assert explain.area_under(curves)[0] < explain.area_under(curves)[1]
    assert explain.area_under(np.array([1.0, 0.5, 0.0])) == 0.5
