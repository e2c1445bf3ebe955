"""The conditional GAN against its papers' equations in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.objectives.runs import checkpoint, lines, small
from tests.objectives.ssl import finite_differences, log_softmax
from vision import objectives
from vision.config import default
from vision.errors import UserError
from vision.models.layers.linear import Linear
from vision.models.layers.streams import Streams
from vision.objectives.contract import ImageForm
from vision.objectives.gan import DISCRIMINATOR, GENERATOR, doubts, hinge
from vision.objectives.gan_networks import SpectralNorm, double, grid_of, halve
from vision.training.run import run
from vision.training.setup import image_form

pytestmark = pytest.mark.long

SIDE = 8
CLASSES = 3
BATCH = 4
RNG = np.random.RandomState(0)
IMAGES = RNG.uniform(0, 1, (BATCH, SIDE, SIDE, 1))
LABELS = np.eye(CLASSES)[[0, 2, 1, 2]]
FORM = ImageForm((SIDE, SIDE, 1), (0.0,), (1.0,))  # data.normalize=unit


class Classifier(nnx.Module):
    def __init__(self, rngs, dtype):
        self.dtype = dtype  # which both players take
        self.head = Linear(SIDE * SIDE, CLASSES, rngs=rngs)

    def __call__(self, images):
        return self.head(images.reshape(len(images), -1))


def build(form=FORM, dtype=jnp.float32, **options):
    c = default()
    c.objective.name = "gan"
    for name, value in ({"width": 2, "latent": 3, "augment": ""} | options).items():
        c.objective.options[name] = value
    return objectives.build(
        c.objective,
        Classifier(Streams(0), dtype),
        class_counts=np.ones(CLASSES, int),
        rngs=Streams(1),
        images=form,
    )


@pytest.fixture
def gan(float64):
    """A GAN in float64 whose parameters are all away from their simple starts."""
    objective = build(dtype=jnp.float64)
    random = np.random.RandomState(1)
    for network in (objective.generator, objective.discriminator, objective.model):
        state = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), nnx.state(network))
        nnx.update(network, state)
        moved = nnx.state(network, nnx.Param)
        moved = jax.tree.map(lambda x: x + 0.1 * random.randn(*x.shape), moved)
        nnx.update(network, moved)
    objective.updates.set_value(jnp.zeros((), jnp.float64))
    return objective


def batch():
    return {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}


def value(variable):
    return np.asarray(variable[...], np.float64)


def convolve(x, kernel, bias):
    """A 3x3 or 1x1 convolution with zeros around, from its definition."""
    side = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    outputs = np.zeros((*x.shape[:3], kernel.shape[3])) + bias
    for i in range(side):
        for j in range(side):
            patch = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
            outputs += np.einsum("bhwc,cd->bhwd", patch, kernel[i, j])
    return outputs


def conv(layer, x, scale=1.0):
    return convolve(x, value(layer.kernel) / scale, value(layer.bias))


def relu(x):
    return np.maximum(x, 0)


def standardized(x):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


def conditional(norm, x):
    scale, bias = (LABELS[: len(x)] @ value(p) for p in (norm.scale, norm.bias))
    return standardized(x) * scale[:, None, None] + bias[:, None, None]


def drawn(generator, noise):
    """The generator in training mode."""
    begin = generator.begin
    x = (noise @ value(begin.kernel) + value(begin.bias)).reshape(BATCH, 4, 4, -1)
    (block,) = generator.blocks
    branch = np.kron(relu(conditional(block.first_norm, x)), np.ones((1, 2, 2, 1)))
    branch = conv(block.second, relu(conditional(block.second_norm, conv(block.first, branch))))
    x = branch + np.kron(conv(block.shortcut, x), np.ones((1, 2, 2, 1)))
    x = standardized(x) * value(generator.norm.scale) + value(generator.norm.bias)
    return np.tanh(conv(generator.end, relu(x)))


def vectors(norm):
    """Algorithm 1 of Miyato et al.: one power iteration from the remembered direction."""
    matrix = value(norm.layer.kernel).reshape(-1, norm.layer.kernel.shape[-1])
    right = matrix @ value(norm.direction)
    right /= np.linalg.norm(right)
    left = right @ matrix
    return right, left / np.linalg.norm(left)


def spectral_norms(discriminator):
    blocks = [getattr(b, n) for b in discriminator.blocks for n in ("first", "second", "shortcut")]
    return [*blocks, discriminator.score, discriminator.classes]


class Reference:
    """Both players' losses, from the equations; the vectors of the power iteration are fixed."""

    def __init__(self, objective):
        self.objective = objective
        self.noise = np.asarray(nnx.clone(objective).draw_noise(BATCH, jnp.float64))
        norms = spectral_norms(objective.discriminator)
        self.vectors = {id(norm): vectors(norm) for norm in norms}

    def largest(self, norm):
        right, left = self.vectors[id(norm)]
        return right @ value(norm.layer.kernel).reshape(len(right), -1) @ left

    def conv(self, norm, x):
        return conv(norm.layer, x, self.largest(norm))

    def scores(self, images, labels):
        discriminator = self.objective.discriminator
        first, last = discriminator.blocks
        x = mean_of_four(self.conv(first.second, relu(self.conv(first.first, images))))
        x = x + self.conv(first.shortcut, mean_of_four(images))
        branch = self.conv(last.second, relu(self.conv(last.first, relu(x))))
        x = branch + self.conv(last.shortcut, x)
        features = relu(x).sum((1, 2))
        psi, table = discriminator.score, discriminator.classes
        unconditional = features @ value(psi.layer.kernel)[:, 0] / self.largest(psi)
        projected = labels @ value(table.layer.kernel) / self.largest(table)
        return unconditional + value(psi.layer.bias) + (projected * features).sum(1)

    def loss(self, player):
        fake = drawn(self.objective.generator, self.noise)
        if player == GENERATOR:
            return -self.scores(fake, LABELS).mean()
        real = self.scores(2 * IMAGES - 1, LABELS)
        loss = relu(1 - real).mean() + relu(1 + self.scores(fake, LABELS)).mean()
        head = self.objective.model.head
        logits = IMAGES.reshape(BATCH, -1) @ value(head.kernel) + value(head.bias)
        return loss - (LABELS * log_softmax(logits)).sum(1).mean()


def mean_of_four(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


@pytest.mark.parametrize("player", [DISCRIMINATOR, GENERATOR])
def test_loss(player, gan):
    expected = Reference(gan).loss(player)
    graph, state = nnx.split(gan)
    loss = jax.jit(lambda s: nnx.merge(graph, s, copy=True).loss(batch(), player)[0])(state)
    assert loss.dtype == np.float64
    assert float(loss) == pytest.approx(expected, rel=1e-10)


PATHS = {
    DISCRIMINATOR: (
        "discriminator.classes.layer.kernel",
        "discriminator.score.layer.kernel",
        "discriminator.blocks.1.shortcut.layer.kernel",
        "model.head.bias",
    ),
    GENERATOR: (
        "generator.begin.bias",
        "generator.blocks.0.first_norm.scale",
        "generator.norm.scale",
        "generator.end.kernel",
    ),
}


@pytest.mark.parametrize("player", PATHS)
def test_gradient(player, gan):
    expected = Reference(gan)
    graph, params, rest = nnx.split(gan, nnx.Param, ...)

    @jax.jit
    @jax.grad
    def slopes_of(params):
        return nnx.merge(graph, params, rest, copy=True).loss(batch(), player)[0]

    slopes = dict(nnx.to_flat_state(slopes_of(params)))
    for path in PATHS[player]:
        keys = tuple(int(key) if key.isdecimal() else key for key in path.split("."))
        variable = gan
        for key in keys:
            variable = variable[key] if isinstance(key, int) else getattr(variable, key)
        start = value(variable)

        def numeric(array, variable=variable):
            variable[...] = jnp.asarray(array)
            return expected.loss(player)

        slope = np.asarray(slopes[keys].get_value())
        np.testing.assert_allclose(slope, finite_differences(numeric, start), atol=1e-6)
        assert np.abs(slope).max() > 1e-4
        variable[...] = jnp.asarray(start)


def test_each_player_learns_from_its_own_loss():
    objective = build()
    graph, params, rest = nnx.split(objective, nnx.Param, ...)

    @functools.partial(jax.jit, static_argnums=1)
    @jax.grad
    def slopes_of(params, player):
        return nnx.merge(graph, params, rest, copy=True).loss(batch(), player)[0]

    slopes = slopes_of(params, DISCRIMINATOR)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(slopes["generator"]))
    slopes = slopes_of(params, GENERATOR)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(slopes["model"]))
    assert any(np.asarray(x).any() for x in jax.tree.leaves(slopes["generator"]))


def test_hinge():
    real, fake = jnp.array([2.0, 0.5, -1.0]), jnp.array([-3.0, 0.25, 1.0])
    assert float(hinge(real, fake)) == pytest.approx((0.5 + 2) / 3 + (1.25 + 2) / 3)


def test_power_iterations_find_the_largest_singular_value(float64):
    layer = nnx.Linear(7, 5, param_dtype=jnp.float64, rngs=Streams(0))
    norm = SpectralNorm(layer, rngs=Streams(1))
    x = jnp.ones((1, 7))
    for _ in range(200):
        norm(x)
    exact = np.linalg.svd(value(layer.kernel), compute_uv=False)[0]
    assert float(norm.largest()) == pytest.approx(exact, rel=1e-6)
    norm.eval()
    direction = value(norm.direction)
    output = norm(x)
    np.testing.assert_array_equal(value(norm.direction), direction)
    np.testing.assert_allclose(
        output, np.ones((1, 7)) @ value(layer.kernel) / exact + value(layer.bias), rtol=1e-5
    )


def test_halving_undoes_doubling():
    x = jnp.asarray(RNG.randn(2, 3, 3, 4), jnp.float32)
    np.testing.assert_allclose(halve(double(x)), x, rtol=1e-6)
    np.testing.assert_array_equal(double(x), np.kron(x, np.ones((1, 2, 2, 1))))


@pytest.mark.parametrize(("side", "expected"), [(28, (7, 2)), (32, (4, 3)), (64, (4, 4))])
def test_sizes(side, expected):
    assert grid_of(side) == expected
    assert grid_of(96) == (6, 4) and grid_of(8) == (4, 1)


@pytest.mark.parametrize("side", [4, 7, 18, 30, 100])
def test_sizes_that_no_doubling_reaches(side):
    with pytest.raises(UserError, match=f"data.image_size = {side}: .* such as 28, 32, 64 or 96"):
        grid_of(side)


@pytest.mark.parametrize("shape", [(28, 28, 1), (96, 96, 3)], ids=["28 gray", "96 RGB"])
def test_images_have_the_shape_and_the_range_of_the_data(shape):
    images = jax.eval_shape(
        lambda: build(ImageForm(shape, (0.0,), (1.0,))).generator(jnp.ones((2, 3)), jnp.eye(2, 3))
    )
    assert images.shape == (2, *shape) and images.dtype == np.float32


@pytest.mark.parametrize("normalize", ["unit", "symmetric", "mean_std"])
def test_every_normalization_is_mapped_to_what_the_generator_draws(normalize):
    c = default()
    c.data.normalize = normalize
    c.data.mean = (0.4, 0.5, 0.6)
    c.data.std = (0.2, 0.3, 0.1)
    form = image_form(c, 8, 3)
    assert form.shape == (8, 8, 3)
    pixels = np.array([0, 64, 255])[:, None].repeat(3, 1) / 255
    normalized = {
        "unit": pixels,
        "symmetric": 2 * pixels - 1,
        "mean_std": (pixels - c.data.mean) / c.data.std,
    }[normalize]
    symmetric = form.to_symmetric(jnp.asarray(normalized, jnp.float32))
    np.testing.assert_allclose(symmetric, 2 * pixels - 1, atol=1e-6)


def test_the_average_follows_the_generator():
    objective = build(momentum=0.6)
    before = [np.asarray(x) for x in jax.tree.leaves(nnx.state(objective.average))]
    moved = jax.tree.map(lambda x: x + 1, nnx.state(objective.generator))
    nnx.update(objective.generator, moved)
    for momentum in (1 / 10, 2 / 11):  # a plain mean at first
        objective.after_update()
        fast = jax.tree.leaves(nnx.state(objective.generator))
        slow = jax.tree.leaves(nnx.state(objective.average))
        expected = [momentum * s + (1 - momentum) * f for s, f in zip(before, fast, strict=True)]
        for a, b in zip(slow, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        before = [np.asarray(x) for x in slow]
    objective.updates[...] = jnp.float32(1000)
    objective.after_update()
    first = jax.tree.leaves(nnx.state(objective.average))[0]
    np.testing.assert_allclose(first, 0.6 * before[0] + 0.4 * np.asarray(fast[0]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "wrong", "rule"),
    [
        ("latent", 0, "latent must be at least 1"),
        ("width", 0, "width must be at least 1"),
        ("momentum", 1.5, "momentum must be in"),
        ("augment", "color,flip", "augment = 'flip' is unknown"),
    ],
)
def test_options_out_of_range(name, wrong, rule):
    with pytest.raises(UserError, match=f"objective.options.{rule}"):
        build(**{name: wrong})


def test_few_images_are_doubtful():
    names = [f"class {label}" for label in range(8)]
    assert doubts(names, np.full(8, 100)) == []
    (line,) = doubts(names, np.array([100, 99, *6 * [100]]))
    assert line.startswith(
        "classes with fewer than 100 training images: class 1 (99): their images"
    )
    assert doubts(names, np.array([100, 99, *6 * [100]]), np.arange(8) != 1) == []
    total, few = doubts(names, np.full(8, 62))
    assert total.startswith("the run has 496 training images: with fewer than 500, a generator")
    assert "class 4 (62) and 3 more: their images may be copies" in few


def test_a_run(tmp_path, capsys):
    c = small("digits")
    c.objective.name = "gan"
    c.objective.options.width = 2
    c.objective.options.latent = 3
    c.train.steps = 2
    c.train.eval_every = 2
    result = run(c, tmp_path / "run")
    begun = capsys.readouterr().out.split("step 2")[0]  # what is said before the first evaluation
    assert "note: the run has 64 training images: with fewer than 500, a generator" in begun
    assert begun.count("note: classes with fewer than 100 training images: 0 (") == 1
    logged = lines(tmp_path / "run")[0]
    assert {"discriminator_loss", "generator_loss", "real", "fake", "told_apart"} <= {
        name.removeprefix("train/") for name in logged
    }
    assert 0 <= result["accuracy"] <= 1  # of the classifier beside the players
    assert "average" in checkpoint(tmp_path / "run", 2)["rest"]


def test_embeddings_are_no_images():
    objective = build()
    with pytest.raises(UserError, match="needs images: set transfer.cache_embeddings=False"):
        objective.loss({"image": jnp.ones((2, 5)), "label": jnp.eye(2, 3)}, DISCRIMINATOR)
