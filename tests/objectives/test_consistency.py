"""Losses and gradients of learning from few labels, against the papers in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.objectives.runs import checkpoint, lines, network, small
from tests.objectives.test_thresholds import CLASSES, UNLABELED, fairness, softmax
from tests.training.test_step import CLASSES as NETWORK_CLASSES
from tests.training.test_step import SIDE
from vision import objectives
from vision.config import default
from vision.errors import UserError
from vision.models.layers.streams import Streams
from vision.models.vit import ViT
from vision.objectives.consistency import DEFAULTS, MeanTeacher, gaussian_ramp, linear_ramp
from vision.objectives.thresholds import FixedRule
from vision.training.program import count_flops
from vision.training.run import run

pytestmark = pytest.mark.long

LABELED = 3
RNG = np.random.RandomState(0)
VIEWS = {
    "labeled": RNG.randn(LABELED, CLASSES),
    "weak": 2 * RNG.randn(UNLABELED, CLASSES),
    "strong": 2 * RNG.randn(UNLABELED, CLASSES),
}
LABELS = np.eye(CLASSES)[RNG.randint(0, CLASSES, LABELED)]
INDEX = np.arange(UNLABELED)


class Given(nnx.Module):
    """A model whose logits are its images."""

    def __call__(self, images):
        return images


def make(model=None, classes=CLASSES, images=UNLABELED, **changes):
    """Builds the objective as a run does; names with a dot are keys of config.objective."""
    c = default().objective
    c.name = "consistency"
    for name, value in changes.items():
        if name in c:
            c[name] = value
        else:
            with c.options.unlocked():
                c.options[name] = value
    return objectives.define(c).build(
        model or Given(),
        class_counts=np.ones(classes),
        rngs=Streams(0),
        architectures={},
        sizes={"unlabeled": images},
    )


def batch_of(views, progress=0.5, labels=LABELS, index=INDEX):
    return {
        "image": views["labeled"],
        "label": jnp.asarray(labels),
        "progress": progress,
        "unlabeled": {"weak": views["weak"], "strong": views["strong"], "index": index},
    }


def value_and_gradient(objective, progress=0.5):
    graph, state = nnx.split(objective)

    def loss(views):
        return nnx.merge(graph, state, copy=True).loss(batch_of(views, progress))

    views = jax.tree.map(jnp.asarray, VIEWS)
    (value, scalars), gradient = jax.value_and_grad(loss, has_aux=True)(views)
    return float(value), jax.tree.map(np.asarray, gradient), scalars


def supervised(smoothing=0.0):
    """Returns (loss, gradient) of the labeled images."""
    labels = (1 - smoothing) * LABELS + smoothing / CLASSES
    p = softmax(VIEWS["labeled"])
    return -(labels * np.log(p)).sum(1).mean(), (p - labels) / LABELED


def hard_labels(threshold, guess, teacher):
    """Returns (loss, gradient of the guess's logits, share that counts), image by image."""
    loss = 0.0
    gradient = np.zeros_like(guess)
    counted = 0
    for row, (p, q) in enumerate(zip(softmax(teacher), softmax(guess), strict=True)):
        label = int(np.argmax(p))
        limit = threshold if np.isscalar(threshold) else threshold[label]
        if p[label] >= limit:
            loss -= np.log(q[label]) / len(guess)
            gradient[row] = (q - np.eye(CLASSES)[label]) / len(guess)
            counted += 1
    return loss, gradient, counted / len(guess)


def test_fixmatch(float64):
    """Eq. 3 and 4; no gradient reaches the weak view."""
    objective = make(threshold=0.7, weight=3.0, label_smoothing=0.1)
    loss, gradient, scalars = value_and_gradient(objective)
    labeled, labeled_gradient = supervised(smoothing=0.1)
    unlabeled, strong_gradient, share = hard_labels(0.7, VIEWS["strong"], VIEWS["weak"])
    assert 0 < share < 1
    assert loss == pytest.approx(labeled + 3 * unlabeled, abs=1e-12)
    np.testing.assert_allclose(gradient["labeled"], labeled_gradient, atol=1e-12)
    np.testing.assert_allclose(gradient["strong"], 3 * strong_gradient, atol=1e-12)
    assert not gradient["weak"].any()
    assert float(scalars["confident"]) == pytest.approx(share)
    assert float(scalars["threshold"]) == pytest.approx(0.7)
    assert float(scalars["unsupervised_loss"]) == pytest.approx(unlabeled, abs=1e-12)


def test_pseudo_labels(float64):
    loss, gradient, scalars = value_and_gradient(
        make(method="pseudo_label", threshold=0.6, weight=2.0), progress=0.2
    )
    unlabeled, weak_gradient, share = hard_labels(0.6, VIEWS["weak"], VIEWS["weak"])
    weight = 2 * 0.2 / 0.4
    assert loss == pytest.approx(supervised()[0] + weight * unlabeled, abs=1e-12)
    np.testing.assert_allclose(gradient["weak"], weight * weak_gradient, atol=1e-12)
    assert not gradient["strong"].any() and 0 < share < 1
    assert float(scalars["confident"]) == pytest.approx(share)


def squared(guess, other):
    """Returns (mean squared difference of probabilities, its gradient by the guess's logits)."""
    p = softmax(guess)
    gap = p - softmax(other)
    gradient = 2 / gap.size * p * (gap - (gap * p).sum(1, keepdims=True))
    return (gap**2).mean(), gradient


def test_the_pi_model(float64):
    """Both views learn."""
    loss, gradient, _ = value_and_gradient(make(method="pi"), progress=0.1)
    weight = 100 * np.exp(-5 * (1 - 0.1 / (80 / 300)) ** 2)
    unlabeled, weak_gradient = squared(VIEWS["weak"], VIEWS["strong"])
    _, strong_gradient = squared(VIEWS["strong"], VIEWS["weak"])
    assert loss == pytest.approx(supervised()[0] + weight * unlabeled, abs=1e-12)
    np.testing.assert_allclose(gradient["weak"], weight * weak_gradient, atol=1e-12)
    np.testing.assert_allclose(gradient["strong"], weight * strong_gradient, atol=1e-12)


def test_the_mean_teacher(float64):
    """The strong view learns from the teacher's probabilities of the weak one."""
    loss, gradient, _ = value_and_gradient(make(method="mean_teacher"), progress=1.0)
    unlabeled, strong_gradient = squared(VIEWS["strong"], VIEWS["weak"])
    assert loss == pytest.approx(supervised()[0] + 100 * unlabeled, abs=1e-12)
    np.testing.assert_allclose(gradient["strong"], 100 * strong_gradient, atol=1e-12)
    assert not gradient["weak"].any()


def test_the_teacher_is_the_moving_average():
    """After each update: the early momentum during the ramp-up, then the other one."""
    model = nnx.Linear(CLASSES, CLASSES, rngs=Streams(0))
    teacher = MeanTeacher(model, weight=1.0, ramp_up=0.5, momentum=0.9, early_momentum=0.6)
    expected = np.asarray(model.kernel[...])
    for progress, momentum in ((0.0, 0.6), (0.4, 0.6), (0.5, 0.9), (0.9, 0.9)):
        teacher.loss(batch_of(jax.tree.map(jnp.float32, VIEWS), progress))
        model.kernel[...] = model.kernel[...] + 1.0
        teacher.after_update()
        expected = momentum * expected + (1 - momentum) * np.asarray(model.kernel[...])
        np.testing.assert_allclose(teacher.slow.kernel[...], expected, rtol=1e-6, atol=1e-7)


def test_the_ramp():
    times = np.array([0.0, 0.1, 0.2, 0.7])
    expected = [np.exp(-5), np.exp(-1.25), 1.0, 1.0]
    np.testing.assert_allclose(gaussian_ramp(jnp.asarray(times), 0.2), expected, rtol=1e-6)
    np.testing.assert_allclose(
        linear_ramp(jnp.asarray(times), 0.2), np.minimum(np.asarray(times) / 0.2, 1), rtol=1e-6
    )
    assert gaussian_ramp(jnp.asarray(0.0), 0.0) == linear_ramp(jnp.asarray(0.0), 0.0) == 1.0


@pytest.mark.parametrize("rule", ["flex", "free"])
def test_fixmatch_with_adaptive_thresholds(rule, float64):
    """The rule says what counts, and FreeMatch's fairness loss is not weighted by lambda_u."""
    loss, gradient, scalars = value_and_gradient(make(rule=rule, weight=3.0))
    p = softmax(VIEWS["weak"])
    if rule == "flex":  # nothing is remembered yet: every pseudo-label counts
        thresholds = np.zeros(CLASSES)
        penalty = 0.0
    else:
        shares = 0.999 / CLASSES + 0.001 * p.mean(0)
        votes = np.bincount(p.argmax(1), minlength=CLASSES) / len(p)
        thresholds = shares / shares.max() * (0.999 / CLASSES + 0.001 * p.max(1).mean())
        counted = p.max(1) >= thresholds[p.argmax(1)]
        histogram = 0.999 / CLASSES + 0.001 * votes
        penalty = 0.01 * fairness(VIEWS["strong"], counted, shares, histogram)
    unlabeled, _, share = hard_labels(thresholds, VIEWS["strong"], VIEWS["weak"])
    assert loss == pytest.approx(supervised()[0] + 3 * unlabeled + penalty, abs=1e-12)
    assert float(scalars["confident"]) == pytest.approx(share)
    assert float(scalars["threshold"]) == pytest.approx(thresholds.mean())
    assert not gradient["weak"].any()


def image_batch(labeled=2, ratio=7):
    random = np.random.RandomState(2)
    count = ratio * labeled
    views = {
        name: jnp.asarray(random.randn(size, SIDE, SIDE, 3), jnp.float32)
        for name, size in (("labeled", labeled), ("weak", count), ("strong", count))
    }
    labels = np.eye(NETWORK_CLASSES)[np.arange(labeled) % NETWORK_CLASSES]
    return batch_of(views, labels=labels.astype(np.float32), index=jnp.arange(count))


def gradient_of(objective, batch):
    graph, params, rest = nnx.split(objective, nnx.Param, ...)

    def loss(params):
        merged = nnx.merge(graph, params, rest, copy=True)
        merged.train()
        value, _ = merged.loss(batch)
        return value

    return jax.jit(jax.value_and_grad(loss)).trace(params), params


def test_one_pass_or_two_without_batch_norm():
    """A ViT has the same loss and gradient either way."""
    results = []
    for one_pass in (False, True):
        model = ViT(16, 1, 2, 4, NETWORK_CLASSES, image_size=SIDE, rngs=Streams(0))
        objective = make(model, NETWORK_CLASSES, threshold=0.2, one_pass=one_pass)
        traced, params = gradient_of(objective, image_batch())
        results.append(traced.lower().compile()(params))
    for two, one in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5)


def test_weak_images_need_no_backward_pass():
    """The operations of a step are those of its bare passes, and of one pass many more."""
    batch = image_batch()
    model = network(0)
    steps = {}
    for one_pass in (False, True):
        traced, _ = gradient_of(make(model, NETWORK_CLASSES, one_pass=one_pass), batch)
        steps[one_pass] = count_flops(traced)

    def backward(views):
        traced, _ = gradient_of(Bare(model), views)
        return count_flops(traced)

    weak = batch["unlabeled"]["weak"]
    learned = jnp.concatenate([batch["image"], batch["unlabeled"]["strong"]])
    graph, state = nnx.split(model)
    forward = count_flops(jax.jit(lambda x: nnx.merge(graph, state, copy=True)(x)).trace(weak))
    assert steps[False] <= 1.01 * (forward + backward(learned))
    assert steps[True] > 1.3 * steps[False]


class Bare(nnx.Module):
    """Nothing but the model's passes."""

    def __init__(self, model):
        self.model = model

    def loss(self, images):
        return self.model(images).mean(), {}


def few_labels(**options):
    c = small()
    c.objective.name = "consistency"
    c.data.unlabeled = "rest"
    c.data.unlabeled_ratio = 3
    c.data.labels = "2/class"
    c.train.steps = 4
    for name, value in options.items():
        with c.objective.options.unlocked():
            c.objective.options[name] = value
    return c


RUNS = [
    {"threshold": 0.05},
    {"rule": "flex", "threshold": 0.09},
    {"rule": "free"},
    {"method": "pi"},
    {"method": "mean_teacher"},
    {"method": "pseudo_label", "threshold": 0.05},
]


@pytest.mark.parametrize("options", RUNS, ids=lambda options: "-".join(map(str, options.values())))
def test_every_method_trains(options, tmp_path):
    """Only a mean teacher is in the checkpoint beside the model, and what a rule remembers."""
    assert run(few_labels(**options), tmp_path / "run")["steps"] == 4
    logged = [line for line in lines(tmp_path / "run") if "train/loss" in line]
    assert all(np.isfinite(line["train/unsupervised_loss"]) for line in logged)
    state = checkpoint(tmp_path / "run", 4)
    assert ("slow" in state["rest"]) == (options.get("method") == "mean_teacher")
    assert set(state["params"]) == {"model"}
    if options.get("threshold") == 0.05:
        assert logged[-1]["train/confident"] == 1.0
    if options.get("rule") == "flex":
        remembered = state["rest"]["rule"]["labels"]
        assert remembered.shape == (64,) and (remembered >= 0).sum() > 30
    if options.get("rule") == "free":
        assert state["rest"]["rule"]["shares"].sum() == pytest.approx(1, abs=1e-5)
    if options.get("method") == "mean_teacher":
        slow = jax.tree.leaves(state["rest"]["slow"])
        fast = jax.tree.leaves(state["params"]["model"])
        largest = max(np.abs(a - b).max() for a, b in zip(slow, fast, strict=True))
        assert 0 < largest < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "fixmach"}, "did you mean 'fixmatch'"),
        ({"rule": "fluid"}, "objective.options.rule = 'fluid' is unknown"),
        ({"threshold": 1.5}, "objective.options.threshold must be in \\[0, 1\\], got 1.5"),
        ({"weight": -1.0}, "objective.options.weight must be at least 0, got -1.0"),
        ({"weight": "much"}, "objective.options.weight must be a number, got much"),
        ({"weight": float("nan")}, "objective.options.weight must be a number, got nan"),
        ({"ramp_up": 2}, "objective.options.ramp_up must be in \\[0, 1\\], got 2"),
        ({"rule": "free", "fairness": -0.1}, "fairness must be at least 0"),
        ({"method": "mean_teacher", "momentum": 1.0}, "momentum must be in \\[0, 1\\)"),
        ({"method": "pi", "rule": "flex"}, "rule = 'flex' has no effect on pi"),
        ({"method": "pi", "threshold": 0.5}, "threshold = 0.5 has no effect on pi"),
        ({"rule": "free", "threshold": 0.5}, "no effect on fixmatch with rule=free"),
        ({"fairness": 0.1}, "no effect on fixmatch with rule=fixed, only on"),
        ({"class_weights": "inverse"}, "objective.class_weights = 'inverse' has no effect"),
        ({"focal_gamma": 2.0}, "objective.focal_gamma = 2.0 has no effect"),
        ({"classes": 1}, "needs at least 2 classes, got 1"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        make(**changes)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("rule", ["fixed", "flex"])
def test_unlabeled_images_are_needed(rule, tmp_path):
    c = few_labels(rule=rule)
    c.data.unlabeled = ""
    with pytest.raises(UserError, match="learns from unlabeled images too: set data.unlabeled"):
        run(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_method_can_be_built():
    for method in DEFAULTS:
        make(method=method)
    assert type(make().rule) is FixedRule
