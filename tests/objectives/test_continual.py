"""Going on from a run: every term of the loss and its gradient against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from vision.data.division import Task
from vision.errors import UserError
from vision.objectives import continual
from vision.objectives.continual import Continual
from vision.objectives.importance import PathIntegral, Quadratic, combine, path_importance

NEW = 6
OLD = 4
TASKS = (2, 2, 1)  # classes
CLASSES = sum(TASKS)
GROUPS = [range(2), range(2, 4), range(4, 5)]
RNG = np.random.RandomState(0)
WEIGHTS = RNG.randn(3, CLASSES)
PREVIOUS = RNG.randn(3, 4)
INPUTS = RNG.randn(NEW, 3)
REMEMBERED = RNG.randn(OLD, 3)
LABELS = np.eye(CLASSES)[np.full(NEW, 4)]
OLD_LABELS = np.eye(CLASSES)[[0, 1, 2, 3]]
IMPORTANCE = RNG.rand(3, CLASSES)
ANCHOR = RNG.randn(3, CLASSES)


class Linear(nnx.Module):
    def __init__(self, kernel):
        self.kernel = nnx.Param(jnp.asarray(kernel))

    def __call__(self, x):
        return x @ self.kernel[...]


def options(**changes):
    return ConfigDict(continual.OPTIONS | changes)


def objective(kernel, *, penalizes=(), share=0.2, smoothing=0.0, **changes):
    made = Continual(
        Linear(kernel),
        Linear(PREVIOUS),
        GROUPS,
        options(**changes),
        share=share,
        penalizes=penalizes,
        label_smoothing=smoothing,
    )
    for name in penalizes:
        term = getattr(made, name)
        term.importance["kernel"] = nnx.Variable(jnp.asarray(IMPORTANCE))
        term.anchor["kernel"] = nnx.Variable(jnp.asarray(ANCHOR))
    return made


def value_and_gradient(memory=True, **keys):
    batch = {"image": jnp.asarray(INPUTS), "label": jnp.asarray(LABELS)}
    if memory:
        batch["memory"] = {"image": jnp.asarray(REMEMBERED), "label": jnp.asarray(OLD_LABELS)}

    def loss(kernel):
        return objective(kernel, **keys).loss(batch)

    (value, scalars), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(WEIGHTS))
    return float(value), np.asarray(gradient), scalars


def softmax(x):
    powers = np.exp(x - x.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def mean_cross_entropy(inputs, labels, columns=range(CLASSES)):
    """Returns (the mean cross-entropy told from some classes, its gradient by the weights)."""
    columns = list(columns)
    p = softmax(inputs @ WEIGHTS[:, columns])
    gradient = np.zeros_like(WEIGHTS)
    gradient[:, columns] = inputs.T @ (p - labels[:, columns]) / len(inputs)
    return -(labels[:, columns] * np.log(p)).sum(1).mean(), gradient


def distillation(inputs, columns, temperature):
    columns = list(columns)
    p = softmax(inputs @ PREVIOUS[:, columns] / temperature)
    q = softmax(inputs @ WEIGHTS[:, columns] / temperature)
    gradient = np.zeros_like(WEIGHTS)
    gradient[:, columns] = temperature * inputs.T @ (q - p) / len(inputs)
    return temperature**2 * (p * np.log(p / q)).sum(1).mean(), gradient


def test_new_and_remembered_images_have_their_shares(float64):
    value, gradient, scalars = value_and_gradient()
    new, new_gradient = mean_cross_entropy(INPUTS, LABELS)
    old, old_gradient = mean_cross_entropy(REMEMBERED, OLD_LABELS)
    np.testing.assert_allclose(value, 0.2 * new + 0.8 * old, rtol=1e-12)
    np.testing.assert_allclose(gradient, 0.2 * new_gradient + 0.8 * old_gradient, atol=1e-12)
    right = (REMEMBERED @ WEIGHTS).argmax(1) == OLD_LABELS.argmax(1)
    assert float(scalars["memory_accuracy"]) == right.mean()


def test_nothing_to_keep_leaves_the_whole_weight_to_the_new_images(float64):
    value, gradient, _ = value_and_gradient(memory=False)
    new, new_gradient = mean_cross_entropy(INPUTS, LABELS)
    np.testing.assert_allclose(value, new, rtol=1e-12)
    np.testing.assert_allclose(gradient, new_gradient, atol=1e-12)


def test_old_answers_are_kept_on_all_images(float64):
    value, gradient, scalars = value_and_gradient(lwf=0.5, temperature=3.0)
    new, new_gradient = mean_cross_entropy(INPUTS, LABELS)
    old, old_gradient = mean_cross_entropy(REMEMBERED, OLD_LABELS)
    kept, kept_gradient = distillation(np.concatenate([INPUTS, REMEMBERED]), range(4), 3.0)
    np.testing.assert_allclose(float(scalars["lwf"]), kept, rtol=1e-12)
    np.testing.assert_allclose(value, 0.2 * new + 0.8 * (old + 0.5 * kept), rtol=1e-12)
    expected = 0.2 * new_gradient + 0.8 * (old_gradient + 0.5 * kept_gradient)
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_within_a_task_only_its_classes_compete(float64):
    value, gradient, _ = value_and_gradient(memory=False, lwf=1.0, within_task=True)
    new, new_gradient = mean_cross_entropy(INPUTS, LABELS, [4])
    terms = [distillation(INPUTS, group, 2.0) for group in GROUPS[:2]]
    kept = np.mean([term for term, _ in terms])
    kept_gradient = np.mean([term_gradient for _, term_gradient in terms], axis=0)
    np.testing.assert_allclose(value, 0.2 * new + 0.8 * kept, rtol=1e-12)
    np.testing.assert_allclose(gradient, 0.2 * new_gradient + 0.8 * kept_gradient, atol=1e-12)


def test_smoothed_labels_stay_within_their_task(float64):
    keys = {"within_task": True, "smoothing": 0.1}
    made = objective(WEIGHTS, **keys)
    smoothed = np.asarray(made._smooth(jnp.asarray(OLD_LABELS)))
    np.testing.assert_allclose(smoothed[0], [0.95, 0.05, 0, 0, 0])
    np.testing.assert_allclose(smoothed.sum(1), 1)


@pytest.mark.parametrize(("name", "factor"), [("ewc", 0.5), ("si", 1.0)])
def test_penalties(name, factor, float64):
    """EWC has lambda / 2 (eq. 3 of its paper), SI has c (eq. 4)."""
    value, gradient, scalars = value_and_gradient(memory=False, penalizes=[name], **{name: 7.0})
    new, new_gradient = mean_cross_entropy(INPUTS, LABELS)
    distance = WEIGHTS - ANCHOR
    penalty = (IMPORTANCE * distance**2).sum()
    np.testing.assert_allclose(float(scalars[name]), penalty, rtol=1e-12)
    np.testing.assert_allclose(value, new + 7.0 * factor * penalty, rtol=1e-12)
    expected = new_gradient + 7.0 * factor * 2 * IMPORTANCE * distance
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_the_path_integral_sums_up_gradient_times_move():
    made = objective(WEIGHTS.astype(np.float32), si=1.0)
    steps = [RNG.randn(2, *WEIGHTS.shape).astype(np.float32) for _ in range(3)]
    total = np.zeros(WEIGHTS.shape)
    for gradient, move in steps:
        made.model.kernel[...] += move
        made.after_update({"model": {"kernel": jnp.asarray(gradient)}})
        total -= gradient * move
    np.testing.assert_allclose(np.asarray(made.path.sum["kernel"][...]), total, atol=1e-5)
    np.testing.assert_array_equal(made.last.kernel[...], made.model.kernel[...])
    np.testing.assert_allclose(made.first.kernel[...], WEIGHTS, rtol=1e-6)


def test_on_a_quadratic_the_path_integral_is_the_fall_of_the_loss():
    """Zenke et al. 2017, eq. 3: the sum over the weights is the fall of the loss."""
    curvature = np.array([1.0, 4.0])
    model = Linear(np.array([[1.0, -2.0]], np.float32))
    start = np.asarray(model.kernel[...])
    path = PathIntegral(model)
    for _ in range(4000):
        before = nnx.clone(model)
        gradient = curvature * np.asarray(model.kernel[...])
        model.kernel[...] -= 1e-3 * gradient
        path.add(before, model, {"kernel": jnp.asarray(gradient)})
    end = np.asarray(model.kernel[...])
    fall = 0.5 * curvature * (start**2 - end**2)
    np.testing.assert_allclose(path.sum["kernel"][...], fall, rtol=5e-3)
    importance = path_importance(np.asarray(path.sum["kernel"][...]), start, end, 1e-9)
    np.testing.assert_allclose(importance, fall / (end - start) ** 2, rtol=5e-3)


def test_quadratics_of_two_tasks_are_one():
    """The sum of both penalties and the joined one have the same gradient."""
    old = {"importance.w": RNG.rand(2, 3), "anchor.w": RNG.randn(2, 3)}
    new = {"importance.w": RNG.rand(2, 5), "anchor.w": RNG.randn(2, 5)}
    joined = combine(old, new, 1.0, "each")
    weights = RNG.randn(2, 5)
    gradient = 2 * new["importance.w"] * (weights - new["anchor.w"])
    gradient[:, :3] += 2 * old["importance.w"] * (weights[:, :3] - old["anchor.w"])
    ours = 2 * joined["importance.w"] * (weights - joined["anchor.w"])
    np.testing.assert_allclose(ours, gradient, atol=1e-12)


def test_online_importance_decays_around_the_latest_weights():
    old = {"importance.w": np.ones(3), "anchor.w": np.zeros(3)}
    new = {"importance.w": np.full(3, 2.0), "anchor.w": np.full(3, 5.0)}
    joined = combine(old, new, 0.5, "latest")
    np.testing.assert_array_equal(joined["importance.w"], np.full(3, 2.5))
    np.testing.assert_array_equal(joined["anchor.w"], new["anchor.w"])


def test_parameters_of_no_importance_are_free():
    term = Quadratic(Linear(WEIGHTS))
    assert float(term(Linear(WEIGHTS))) == 0


def built(tasks, **changes):
    config = ConfigDict({"options": continual.OPTIONS | changes, "label_smoothing": 0.0})
    tasks = [Task("", tuple("abcdef"[:count]), 1) for count in tasks]
    architectures = {"previous": Linear(PREVIOUS)}
    model = Linear(WEIGHTS)
    return continual.build(
        config, model, classes=("a",) * CLASSES, tasks=tasks, architectures=architectures
    )


@pytest.mark.parametrize(
    ("tasks", "share"), [((4, 1), 0.2), ((5, 0), 0.5), ((5, 0, 0), 1 / 3), ((), 1.0)]
)
def test_the_share_of_new_images(tasks, share):
    assert built(tasks).share == pytest.approx(share)
    assert built(tasks, new_share=0.7).share == 0.7


def test_what_it_starts_from():
    config = ConfigDict({"options": continual.OPTIONS | {"lwf": 1.0, "ewc": 1.0, "si": 1.0}})
    copies = {"first": "model", "last": "model"}
    assert continual.starts(config, "") == copies
    assert continual.starts(config, "runs/a") == copies | {
        "previous": "runs/a",
        "ewc": "runs/a/importance/fisher.safetensors",
        "si": "runs/a/importance/si.safetensors",
    }


@pytest.mark.parametrize(
    ("option", "value"),
    [("lwf", -1.0), ("ewc", float("inf")), ("si", -0.1), ("temperature", 0.0), ("new_share", 1.0)],
)
def test_options_out_of_range(option, value):
    with pytest.raises(UserError, match=f"objective.options.{option} must be"):
        built((4, 1), **{option: value})
