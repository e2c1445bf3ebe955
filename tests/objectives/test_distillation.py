"""Distillation: every loss and its gradient against NumPy; the teacher stays as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.objectives.runs import have_same_bits, network
from tests.training.test_step import IMAGES, LABELS, config, make
from vision.models.layers.streams import Streams
from vision.objectives.distillation import Distillation, hard_loss, soft_loss
from vision.objectives.embedding_distillation import EmbeddingDistillation
from vision.objectives.hints import Hint
from vision.objectives.representation import distances
from vision.objectives.supervised import Supervised

pytestmark = pytest.mark.long

BATCH = 6
CLASSES = 5
RNG = np.random.RandomState(0)
LOGITS = 2 * RNG.randn(BATCH, CLASSES)
TEACHER = 2 * RNG.randn(BATCH, CLASSES)
ONE_HOT = np.eye(CLASSES)[RNG.randint(0, CLASSES, BATCH)]


class Same(nnx.Module):
    """A head whose logits are the embedding; `both` halves it."""

    def __call__(self, x):
        return x


class Halves(nnx.Module):
    def __call__(self, x):
        return sum(self.both(x)) / 2

    def both(self, x):
        return jnp.split(x, 2, axis=-1)


class Given(nnx.Module):
    """A model whose embedding is its images', or fixed numbers."""

    def __init__(self, head, embeddings=None):
        self.head = head
        self.embeddings = None if embeddings is None else nnx.Variable(jnp.asarray(embeddings))

    def embed(self, images):
        return images[:, 0, 0] if self.embeddings is None else self.embeddings[...]


def softmax(x):
    powers = np.exp(x - x.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def cross_entropy(labels, logits):
    return -(labels * np.log(softmax(logits))).sum(1).mean()


def value_and_gradient(embeddings, head, teacher=TEACHER, **options):
    """Returns (loss, gradient by the student's embedding, scalars)."""

    def loss(embeddings):
        objective = Distillation(Given(head), Given(Same(), teacher), **options)
        return objective.loss({"image": embeddings[:, None, None], "label": jnp.asarray(ONE_HOT)})

    (value, scalars), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(embeddings))
    return float(value), np.asarray(gradient), scalars


@pytest.mark.parametrize(("alpha", "temperature"), [(0.3, 3.0), (1.0, 1.0), (0.0, 2.0)])
def test_soft_targets(alpha, temperature, float64):
    """Hinton et al., section 2: the gradient of the softened term is T (q - p)."""
    value, gradient, scalars = value_and_gradient(
        LOGITS, Same(), alpha=alpha, temperature=temperature, label_smoothing=0.1
    )
    smoothed = 0.9 * ONE_HOT + 0.1 / CLASSES
    p = softmax(TEACHER / temperature)
    q = softmax(LOGITS / temperature)
    divergence = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    labeled = cross_entropy(smoothed, LOGITS)
    assert value == pytest.approx((1 - alpha) * labeled + alpha * divergence, abs=1e-12)
    expected = (1 - alpha) * (softmax(LOGITS) - smoothed) + alpha * temperature * (q - p)
    np.testing.assert_allclose(gradient, expected / BATCH, atol=1e-12)
    assert float(scalars["teacher_loss"]) == pytest.approx(divergence, abs=1e-12)
    agreeing = (LOGITS.argmax(1) == TEACHER.argmax(1)).mean()
    assert float(scalars["agreement"]) == pytest.approx(agreeing)


def test_at_a_high_temperature_logits_are_matched(float64):
    """Hinton et al., eq. 4: for zero-mean logits the gradient tends to (z - v) / C."""
    z = LOGITS - LOGITS.mean(1, keepdims=True)
    v = TEACHER - TEACHER.mean(1, keepdims=True)
    gradient = jax.grad(lambda x: soft_loss(x, jnp.asarray(v), 1e5).sum())(jnp.asarray(z))
    np.testing.assert_allclose(gradient, (z - v) / CLASSES, rtol=1e-3)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(float64):
    value, gradient, scalars = value_and_gradient(TEACHER, Same(), alpha=1.0)
    assert value == pytest.approx(0, abs=1e-12) and scalars["agreement"] == 1
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_hard_decisions(float64):
    """DeiT, eq. 3, for a model with one head: 1/2 CE(labels) + 1/2 CE(decisions), unsmoothed."""
    value, gradient, _ = value_and_gradient(LOGITS, Same(), kind="hard", label_smoothing=0.1)
    smoothed = 0.9 * ONE_HOT + 0.1 / CLASSES
    decisions = np.eye(CLASSES)[TEACHER.argmax(1)]
    halves = (cross_entropy(smoothed, LOGITS), cross_entropy(decisions, LOGITS))
    assert value == pytest.approx(sum(halves) / 2, abs=1e-12)
    expected = softmax(LOGITS) - (smoothed + decisions) / 2
    np.testing.assert_allclose(gradient, expected / BATCH, atol=1e-12)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_distillation_token(kind, float64):
    """DeiT, eq. 2 and 3: the class token learns from the labels, the other from the teacher."""
    taught = 2 * RNG.randn(BATCH, CLASSES)
    both = np.concatenate([LOGITS, taught], 1)
    value, gradient, scalars = value_and_gradient(
        both, Halves(), kind=kind, alpha=0.4, temperature=2.0
    )
    if kind == "hard":
        target = np.eye(CLASSES)[TEACHER.argmax(1)]
        learned = cross_entropy(target, taught)
        slope = softmax(taught) - target
    else:
        target = softmax(TEACHER / 2)
        learned = 4 * (target * np.log(target / softmax(taught / 2))).sum(1).mean()
        slope = 2 * (softmax(taught / 2) - target)
    assert value == pytest.approx(0.6 * cross_entropy(ONE_HOT, LOGITS) + 0.4 * learned, abs=1e-12)
    expected = np.concatenate([0.6 * (softmax(LOGITS) - ONE_HOT), 0.4 * slope], 1)
    np.testing.assert_allclose(gradient, expected / BATCH, atol=1e-12)
    right = ((LOGITS + taught).argmax(1) == ONE_HOT.argmax(1)).mean()  # the mean of both decides
    assert float(scalars["accuracy"]) == pytest.approx(right)


def resize_matrix(before, after):
    """Returns the weights of linear interpolation, widened to average if the side shrinks."""
    scale = before / after
    centers = (np.arange(after) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - abs(np.arange(before) - centers[:, None]) / max(scale, 1))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("side", [4, 8, 2], ids=["same", "larger", "smaller"])
def test_hints(side, float64):
    """FitNets, eq. 3, and its gradients; the teacher's map is resized to the student's."""
    ours = RNG.randn(2, 4, 4, 3)
    theirs = RNG.randn(2, side, side, 5)
    hint = Hint("a", "b", 3, 5, rngs=Streams(0))
    kernel = RNG.randn(3, 5)
    bias = RNG.randn(5)

    hint.regressor.kernel.set_value(jnp.asarray(kernel))
    hint.regressor.bias.set_value(jnp.asarray(bias))
    matrix = resize_matrix(side, 4)
    target = np.einsum("ij,kl,bjlc->bikc", matrix, matrix, theirs)
    difference = ours @ kernel + bias - target
    value = hint.loss({"a": jnp.asarray(ours)}, {"b": jnp.asarray(theirs)})
    assert float(value) == pytest.approx((difference**2).mean() / 2, abs=1e-12)
    graph, state = nnx.split(hint)

    def functional(state, ours, theirs):
        return nnx.merge(graph, state).loss({"a": ours}, {"b": theirs})

    gradients = jax.grad(functional, (0, 1, 2))(state, jnp.asarray(ours), jnp.asarray(theirs))
    slope = difference / difference.size
    regressor = gradients[0]["regressor"]
    np.testing.assert_allclose(
        regressor["kernel"][...], np.einsum("bhwi,bhwo->io", ours, slope), atol=1e-12
    )
    np.testing.assert_allclose(regressor["bias"][...], slope.sum((0, 1, 2)), atol=1e-12)
    np.testing.assert_allclose(gradients[1], slope @ kernel.T, atol=1e-12)
    assert not gradients[2].any()  # no gradient goes to the teacher


def test_a_hint_to_a_vit_is_for_its_patches(float64):
    tokens = RNG.randn(2, 6, 3)  # class, distillation, 2 x 2 patches
    theirs = RNG.randn(2, 2, 2, 3)
    hint = Hint("a", "b", 3, 3, rngs=Streams(0))
    hint.regressor.kernel.set_value(jnp.eye(3))
    value = hint.loss({"a": jnp.asarray(tokens)}, {"b": jnp.asarray(theirs)})
    expected = np.square(tokens[:, 2:].reshape(2, 2, 2, 3) - theirs).mean() / 2
    assert float(value) == pytest.approx(expected, abs=1e-12)


def test_embeddings_without_labels(float64):
    """2 - 2 cos; by finite differences, the gradient of the student's embedding and no other."""
    ours = RNG.randn(BATCH, 4)
    theirs = RNG.randn(BATCH, 3)
    head = nnx.Linear(4, CLASSES, rngs=Streams(1))
    kernel = RNG.randn(4, 3)

    def distance(ours):
        x = ours @ kernel
        cosines = (x * theirs).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(theirs, axis=1)
        return (2 - 2 * cosines).mean()

    def loss(embeddings):
        objective = EmbeddingDistillation(
            Given(head), Given(Same(), theirs), 0, (4, 3), rngs=Streams(0)
        )
        objective.regressor.kernel.set_value(jnp.asarray(kernel))
        return objective.loss({"image": embeddings[:, None, None], "label": jnp.asarray(ONE_HOT)})

    (value, scalars), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(ours))
    logits = ours @ np.asarray(head.kernel[...])
    assert float(scalars["distance"]) == pytest.approx(distance(ours), abs=1e-12)
    assert float(value) == pytest.approx(distance(ours) + cross_entropy(ONE_HOT, logits), abs=1e-9)
    numeric = np.zeros_like(ours)
    for place in np.ndindex(*ours.shape):
        step = np.zeros_like(ours)
        step[place] = 1e-6
        numeric[place] = (distance(ours + step) - distance(ours - step)) / 2e-6
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)  # nothing comes from the labels


def test_an_embedding_of_zeros_has_a_finite_gradient():
    gradient = jax.grad(lambda x: distances(x, jnp.ones((2, 3))).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(gradient).all()


def test_extreme_logits_are_finite():
    far = jnp.array([[1e4, -1e4, 0.0]])
    for loss in (lambda x: soft_loss(x, -far, 1.0).sum(), lambda x: hard_loss(x, -far).sum()):
        value, gradient = jax.value_and_grad(loss)(far)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def hinted(create=network):
    hint = Hint("stages.0", "stages.1", 4, 8, rngs=Streams(2))
    return Distillation(create(0), create(1, dropout=0.5), hint=hint)


def test_the_teacher_stays_and_the_student_does_not_notice_it():
    """Two steps leave the teacher's bits; the student's statistics are those without a teacher."""
    states = {}
    for create in (hinted, lambda: Supervised(network(0))):
        step = make(config("float32"), create)
        state = step.initialize()
        before = jax.device_get(state["rest"])
        state, _ = step.update(state, {"image": IMAGES[0], "label": LABELS[0]}, {})
        states[create] = jax.device_get(state["rest"]["model"])
        if create is hinted:
            assert set(state["params"]) == {"model", "hint"}
            state, _ = step.update(state, {"image": IMAGES[1], "label": LABELS[1]}, {})
            after = jax.device_get(state["rest"])
            assert have_same_bits(before["teacher"], after["teacher"])
            assert not have_same_bits(before["model"], after["model"])
    taught, alone = states.values()
    for ours, theirs in zip(jax.tree.leaves(taught), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_no_gradient_reaches_the_teacher():
    objective = hinted()
    objective.teacher.eval()
    graph, state = nnx.split(objective)
    images = jnp.asarray(IMAGES[0], jnp.float32) / 255
    batch = {"image": images, "label": jax.nn.one_hot(LABELS[0], CLASSES)}
    learned, rest = nnx.split_state(state, nnx.Param, ...)

    def loss(learned):
        return nnx.merge(graph, learned, rest, copy=True).loss(batch)[0]

    gradient = jax.jit(jax.grad(loss))(learned)
    assert not any(x.any() for x in jax.tree.leaves(gradient["teacher"]))
    assert any(x.any() for x in jax.tree.leaves(gradient["hint"]))
