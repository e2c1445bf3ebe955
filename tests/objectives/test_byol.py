"""BYOL against eq. 2 of its paper in NumPy; what its slow copy does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.objectives.runs import checkpoint, lines
from tests.objectives.ssl import (
    TINY,
    assert_follows,
    assert_labels_reach_the_head_only,
    batch,
    build,
    finite_differences,
    gradient,
    tiny_run,
    units,
)
from vision.errors import UserError
from vision.objectives.representation import distances
from vision.run.weights import run_weights
from vision.training.run import run

pytestmark = pytest.mark.long


def reference(predictions, targets):
    """Eq. 2, before its second equality: the squared distance of the normalized vectors."""
    q = predictions / np.linalg.norm(predictions, axis=1, keepdims=True)
    z = targets / np.linalg.norm(targets, axis=1, keepdims=True)
    return np.mean(((q - z) ** 2).sum(1))


def test_the_distance_and_its_gradient(float64):
    predictions = np.random.RandomState(0).randn(5, 4)
    targets = units(5, 4)

    def ours(x):
        return distances(x, jnp.asarray(targets)).mean()

    assert float(ours(jnp.asarray(predictions))) == pytest.approx(reference(predictions, targets))
    expected = finite_differences(lambda x: reference(x, targets), predictions)
    np.testing.assert_allclose(jax.grad(ours)(jnp.asarray(predictions)), expected, atol=1e-8)
    assert float(distances(jnp.asarray(targets), jnp.asarray(-targets)).mean()) == pytest.approx(4)


def test_each_view_predicts_the_slow_projection_of_the_other():
    objective, spec = build("byol", **TINY)
    gradients, rest, scalars = gradient(objective, spec, batch(progress=0.25))
    twin = nnx.clone(objective)
    twin.train()
    twin.slow.eval()
    twin.slow_projection.eval()
    views = [batch()[name] for name in ("first", "strong")]
    first, second = (twin.prediction(twin.projection(twin.model.embed(x))) for x in views)
    first_target, second_target = (twin.slow_projection(twin.slow.embed(x)) for x in views)
    pairs = ((first, second_target), (second, first_target))
    expected = sum(reference(np.asarray(q), np.asarray(z)) for q, z in pairs)
    assert scalars["regression"] == pytest.approx(expected, rel=1e-4)
    assert scalars["loss"] == pytest.approx(float(scalars["regression"] + scalars["probe"]))
    assert {"accuracy", "top1", "spread"} < scalars.keys()
    assert gradients.keys() == {"model", "projection", "prediction"}
    assert rest["progress"] == 0.25


def test_labels_reach_the_head_only():
    assert_labels_reach_the_head_only("byol", **TINY)


@pytest.mark.parametrize(
    ("rises", "progress", "momentum"), [(False, 0.5, 0.9), (True, 0.5, 0.95), (True, 1.0, 1.0)]
)
def test_the_slow_copies_follow(rises, progress, momentum):
    objective, _ = build("byol", momentum=0.9, momentum_rises=rises, **TINY)
    objective.note_progress(batch(progress=progress))
    assert_follows(objective, momentum)


def test_a_batch_of_one_is_refused():
    objective, spec = build("byol", **TINY)
    with pytest.raises(UserError, match="at least 2, got 1: raise train.batch_size"):
        gradient(objective, spec, batch(images=1))


@pytest.mark.parametrize(
    ("options", "rule"), [({"momentum": -0.1}, r"in \[0, 1\]"), ({"width": 0}, "at least 1")]
)
def test_options_out_of_range(options, rule):
    with pytest.raises(UserError, match=rule):
        build("byol", **(TINY | options))


def test_a_run_in_parts(tmp_path):
    """The loss is a mean over images, so the batch may be cut."""
    c = tiny_run("byol", momentum=0.5)
    c.train.accumulate = 2
    c.strong.solarize = 0.2
    result = run(c, tmp_path / "run")
    measured = {x["step"]: x["val/knn"] for x in lines(tmp_path / "run") if "val/knn" in x}
    assert set(measured) == {2, 4}
    assert measured[result["best_step"]] == max(measured.values())
    rest = checkpoint(tmp_path / "run", 4)["rest"]
    assert {"slow", "slow_projection"} < rest.keys() and rest["progress"] == 0.75
    _, _, weights = run_weights(tmp_path / "run")  # what is exported is the model alone
    parts = ("projection", "prediction", "slow")
    assert weights and not any(part in name for name in weights for part in parts)


def test_mixed_labels_belong_to_no_loss(tmp_path):
    c = tiny_run("byol")
    c.strong.mixup = 0.2
    with pytest.raises(UserError, match="strong.mixup mixes labels"):
        run(c, tmp_path / "run")
