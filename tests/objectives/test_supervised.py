"""The supervised losses against their formulas in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.utils.class_weight import compute_class_weight

from vision import objectives
from vision.config import default
from vision.errors import UserError
from vision.models.layers.heads import CosineHead
from vision.models.layers.streams import Streams
from vision.objectives.supervised import (
    Supervised,
    class_weights,
    cross_entropy,
    ldam_margins,
    smooth,
)

CLASSES = 5
BATCH = 12
RNG = np.random.RandomState(0)
LOGITS = 3 * RNG.randn(BATCH, CLASSES)
LABELS = RNG.randint(0, CLASSES, BATCH)
HARD = np.eye(CLASSES)[LABELS]
SOFT = RNG.dirichlet(np.ones(CLASSES), BATCH)
WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0, 0.1])
COUNTS = np.array([500, 40, 200, 7, 90])


class Given(nnx.Module):
    """A model whose logits are its images."""

    def __call__(self, images):
        return images


def loss(labels, logits=LOGITS, **options):
    batch = {"image": jnp.asarray(logits), "label": jnp.asarray(labels)}
    value, scalars = Supervised(Given(), **options).loss(batch)
    assert value.shape == () and set(scalars) == {"accuracy"}
    return float(value)


def log_softmax(logits):
    return (
        logits
        - logits.max(1, keepdims=True)
        - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1))[:, None]
    )


def test_cross_entropy(float64):
    log_p = log_softmax(LOGITS)
    plain = -log_p[np.arange(BATCH), LABELS].mean()
    assert loss(HARD) == pytest.approx(plain, abs=1e-12)
    assert loss(SOFT) == pytest.approx(-(SOFT * log_p).sum(1).mean(), abs=1e-12)


def test_label_smoothing(float64):
    """torch: (1 - a) * cross-entropy + a * mean over the classes of -log p."""
    log_p = log_softmax(LOGITS)
    plain = -log_p[np.arange(BATCH), LABELS]
    assert loss(HARD, label_smoothing=0.1) == pytest.approx(
        (0.9 * plain - 0.1 * log_p.mean(1)).mean(), abs=1e-12
    )
    np.testing.assert_allclose(smooth(jnp.asarray(SOFT), 0.3).sum(1), 1, atol=1e-12)


def test_class_weights_are_torchs_weighted_mean(float64):
    """torch's `CrossEntropyLoss(weight=w)`: sum w[y] * loss / sum w[y]."""
    each = -log_softmax(LOGITS)[np.arange(BATCH), LABELS]
    own = WEIGHTS[LABELS]
    assert loss(HARD, class_weights=WEIGHTS) == pytest.approx(
        (own * each).sum() / own.sum(), abs=1e-12
    )
    assert loss(HARD, class_weights=7 * WEIGHTS) == pytest.approx(
        (own * each).sum() / own.sum(), abs=1e-12
    )


def test_a_mixed_label_weighs_as_its_parts(float64):
    mixed = 0.3 * HARD + 0.7 * HARD[::-1]
    weight = 0.3 * WEIGHTS[LABELS] + 0.7 * WEIGHTS[LABELS[::-1]]
    each = -(mixed * log_softmax(LOGITS)).sum(1)
    assert loss(mixed, class_weights=WEIGHTS) == pytest.approx(
        (weight * each).sum() / weight.sum(), abs=1e-12
    )


def test_a_batch_of_weightless_classes_teaches_nothing(float64):
    assert loss(HARD, class_weights=np.where(np.isin(np.arange(CLASSES), LABELS), 0.0, 1.0)) == 0.0


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss(gamma, float64):
    log_p = log_softmax(LOGITS)[np.arange(BATCH), LABELS]
    assert loss(HARD, focal_gamma=gamma) == pytest.approx(
        -((1 - np.exp(log_p)) ** gamma * log_p).mean(), abs=1e-12
    )


def test_focal_loss_of_soft_labels(float64):
    log_p = log_softmax(LOGITS)
    theirs = -(SOFT * (1 - np.exp(log_p)) ** 2 * log_p).sum(1).mean()
    assert loss(SOFT, focal_gamma=2.0) == pytest.approx(theirs, abs=1e-12)


def test_logit_adjustment(float64):
    """Menon et al., eq. 10; the accuracy is of the logits without it."""
    c = default().objective
    c.logit_adjustment = 1.5
    objective = objectives.build(c, Given(), class_counts=COUNTS, rngs=Streams(0))
    value, scalars = objective.loss({"image": jnp.asarray(LOGITS), "label": jnp.asarray(HARD)})
    shifted = LOGITS + 1.5 * np.log(COUNTS / COUNTS.sum())
    assert float(value) == pytest.approx(
        -log_softmax(shifted)[np.arange(BATCH), LABELS].mean(), abs=1e-12
    )
    assert float(scalars["accuracy"]) == pytest.approx(np.mean(LOGITS.argmax(1) == LABELS))


def test_all_at_once(float64):
    target = 0.9 * SOFT + 0.1 / CLASSES
    log_p = log_softmax(LOGITS + WEIGHTS)
    each = -(target * (1 - np.exp(log_p)) ** 2 * log_p).sum(1)
    weight = SOFT @ WEIGHTS
    ours = loss(SOFT, label_smoothing=0.1, class_weights=WEIGHTS, focal_gamma=2.0, offsets=WEIGHTS)
    assert ours == pytest.approx((weight * each).sum() / weight.sum(), abs=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 1.5, 2.0])
def test_gradients_stay_finite(gamma, dtype, float64):
    """Where a class is certain, 1 - p is exactly 0, and its power has no finite gradient for gamma
    below 1."""
    logits = jnp.array([[1e4, -1e4, 0], [-1e4, 1e4, 0], [0, 0, 0], [40, 0, 0], [20, 0, 0]], dtype)
    for labels in (jnp.eye(3, dtype=dtype)[jnp.zeros(5, int)], jnp.full((5, 3), 1 / 3, dtype)):
        value, gradient = jax.value_and_grad(lambda x, y=labels: cross_entropy(x, y, gamma).sum())(
            logits
        )
        assert jnp.isfinite(value) and jnp.isfinite(gradient).all()
        assert value.dtype == gradient.dtype == dtype


def test_the_focal_gradient_is_the_formulas(float64):
    """Lin et al., appendix B, for one true class: dL/dx_t = (1-p)^g (g p log p + p - 1)."""
    gamma = 0.5
    labels = jnp.asarray(HARD)
    gradient = jax.grad(lambda x: cross_entropy(x, labels, gamma).sum())(jnp.asarray(LOGITS))
    p = np.exp(log_softmax(LOGITS)[np.arange(BATCH), LABELS])
    theirs = (1 - p) ** gamma * (gamma * p * np.log(p) + p - 1)
    np.testing.assert_allclose(np.asarray(gradient)[np.arange(BATCH), LABELS], theirs, atol=1e-12)


def test_inverse_weights_are_scikit_learns_balanced():
    y = np.repeat(np.arange(CLASSES), COUNTS)
    theirs = compute_class_weight("balanced", classes=np.arange(CLASSES), y=y)
    np.testing.assert_allclose(class_weights("inverse", COUNTS, 0.999), theirs, rtol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_effective_number(beta):
    # (1 - beta^n) / (1 - beta), as a sum
    effective = [sum(beta**k for k in range(n)) for n in COUNTS]
    weights = class_weights("effective_number", COUNTS, beta)
    np.testing.assert_allclose(weights * effective, (weights * effective)[0], rtol=1e-9)
    assert weights.sum() == pytest.approx(CLASSES)


def test_named_and_listed_weights():
    assert class_weights("none", COUNTS, 0.9) is None
    np.testing.assert_array_equal(
        class_weights("[1, 2.5, 0, 4, 5]", COUNTS, 0.9), [1, 2.5, 0, 4, 5]
    )
    np.testing.assert_array_equal(class_weights("(1, 2, 3, 4, 5)", COUNTS, 0.9), [1, 2, 3, 4, 5])
    with_empty = class_weights("inverse", np.array([10, 0, 5]), 0.9)
    assert np.isfinite(with_empty).all() and with_empty[1] == with_empty.max()


@pytest.mark.parametrize(
    "name", ["inverted", "", "[1, 2", "{}", "[1, 'a', 2, 3, 4]", "[[1, 2], [3]]", "None"]
)
def test_no_weights_at_all(name):
    with pytest.raises(UserError, match="none, inverse, effective_number or a list|5 weights"):
        class_weights(name, COUNTS, 0.9)


@pytest.mark.parametrize(
    "name", ["[1, 2]", "3", "[1, 2, 3, 4, -5]", "[0, 0, 0, 0, 0]", "[1, 2, 3, 4, 1e999]"]
)
def test_weights_that_do_not_fit(name):
    with pytest.raises(UserError, match="give 5 weights of at least 0, one per class"):
        class_weights(name, COUNTS, 0.9)


class WithAuxiliary(nnx.Module):
    """Its logits are the mean color, its auxiliary logits the corner's."""

    def __init__(self):
        self.auxiliary = True

    def features(self, images):
        return {"stem": images, "last": images}

    def pool(self, x):
        return x.mean((1, 2))

    def head(self, x):
        return x

    def auxiliary_logits(self, features):
        return features["stem"][:, 0, 0]


def test_an_auxiliary_head_learns_beside():
    images = RNG.randn(BATCH, 2, 2, CLASSES)
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(HARD)}
    value, scalars = Supervised(WithAuxiliary(), auxiliary_weight=0.3, class_weights=WEIGHTS).loss(
        batch
    )
    main, corner = (
        loss(HARD, x, class_weights=WEIGHTS) for x in (images.mean((1, 2)), images[:, 0, 0])
    )
    np.testing.assert_allclose(value, main + 0.3 * corner, rtol=1e-5)
    assert scalars["accuracy"] == pytest.approx((images.mean((1, 2)).argmax(1) == LABELS).mean())


def cosine_loss(labels, progress=None, **options):
    """The loss on logits that are cosines times 30."""
    model = Given()
    model.head = CosineHead(3, CLASSES, 30.0, rngs=Streams(0))
    batch = {"image": jnp.asarray(30 * np.tanh(LOGITS)), "label": jnp.asarray(labels)}
    if progress is not None:
        batch["progress"] = jnp.float32(progress)
    return float(Supervised(model, **options).loss(batch)[0])


def test_ldam(float64):
    """Cao et al. 2019, eq. 13: the true class's cosine is lowered by its margin, then all are
    scaled."""
    margins = ldam_margins(COUNTS, 0.5)
    np.testing.assert_allclose(margins, 0.5 * (7 / COUNTS) ** 0.25)
    cosines = np.tanh(LOGITS)
    cosines[np.arange(BATCH), LABELS] -= margins[LABELS]
    expected = -log_softmax(30 * cosines)[np.arange(BATCH), LABELS].mean()
    assert cosine_loss(HARD, margins=margins) == pytest.approx(expected, abs=1e-9)
    assert cosine_loss(HARD, margins=0 * margins) == pytest.approx(cosine_loss(HARD), abs=1e-12)


def test_deferred_weights(float64):
    """DRW: plain until its share of the training, weighted from then on."""
    for progress, other in (
        (0.0, {}),
        (0.79, {}),
        (0.8, {"class_weights": WEIGHTS}),
        (1.0, {"class_weights": WEIGHTS}),
    ):
        deferred = cosine_loss(HARD, progress, class_weights=WEIGHTS, weights_from=0.8)
        assert deferred == pytest.approx(cosine_loss(HARD, **other), abs=1e-12)


def test_ldam_needs_a_cosine_head():
    c = default().objective
    c.ldam_margin = 0.5
    with pytest.raises(UserError, match="set model.head=cosine"):
        objectives.build(c, Given(), class_counts=COUNTS, rngs=Streams(0))


def test_cosine_head(float64):
    head = CosineHead(6, CLASSES, 30.0, rngs=Streams(0))
    x = RNG.randn(4, 6)
    kernel = np.asarray(head.kernel[...], np.float64)
    expected = (
        30 * (x @ kernel) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(kernel, axis=0)
    )
    np.testing.assert_allclose(head(jnp.asarray(x)), expected, atol=1e-9)
    # the length says nothing
    np.testing.assert_allclose(head(jnp.asarray(7 * x)), expected, atol=1e-9)
    gradient = jax.grad(lambda x: head(x).sum())(jnp.zeros((1, 6)))
    assert np.isfinite(gradient).all()
