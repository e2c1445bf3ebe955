"""SimCLR against eq. 1 of its paper in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.runs import lines
from tests.objectives.ssl import (
    BATCH,
    TINY,
    assert_labels_reach_the_head_only,
    batch,
    build,
    finite_differences,
    gradient,
    log_softmax,
    tiny_run,
    units,
)
from vision.errors import UserError
from vision.objectives.simclr import nt_xent
from vision.run.weights import run_weights
from vision.training.run import run


def reference(z, temperature):
    """Eq. 1, view by view: the denominator leaves out the view itself."""
    count = len(z) // 2
    losses = []
    for i in range(2 * count):
        j = (i + count) % (2 * count)
        similarities = z @ z[i] / temperature
        others = np.delete(similarities, i)
        losses.append(-similarities[j] + np.log(np.exp(others).sum()))
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_nt_xent_and_its_gradient(temperature, float64):
    z = units(8, 5)
    loss, _ = nt_xent(jnp.asarray(z), temperature)
    assert float(loss) == pytest.approx(reference(z, temperature), rel=1e-12)
    slope = jax.grad(lambda z: nt_xent(z, temperature)[0])(jnp.asarray(z))
    expected = finite_differences(lambda z: reference(z, temperature), z)
    np.testing.assert_allclose(slope, expected, atol=2e-7)


def test_its_closed_form_gradient(float64):
    """d loss / d z = (P + P^T - Y - Y^T) z / (2 B tau): P is the softmax, Y 1 at the positives."""
    z = units(8, 5)
    similarities = z @ z.T / 0.3
    np.fill_diagonal(similarities, -np.inf)
    p = np.exp(log_softmax(similarities))
    y = np.roll(np.eye(8), 4, axis=1)
    expected = (p + p.T - y - y.T) @ z / (8 * 0.3)
    slope = jax.grad(lambda z: nt_xent(z, 0.3)[0])(jnp.asarray(z))
    np.testing.assert_allclose(slope, expected, atol=1e-12)


def test_views_that_agree_find_each_other(float64):
    z = units(6, 16)
    same = jnp.asarray(np.concatenate([z, z]))
    loss, top1 = nt_xent(same, 0.01)
    assert loss < 1e-6 and top1 == 1
    shuffled = jnp.asarray(np.concatenate([z, np.roll(z, 1, axis=0)]))
    assert nt_xent(shuffled, 0.01)[1] == 0
    collapsed = jnp.asarray(np.repeat(z[:1], 12, 0))
    assert float(nt_xent(collapsed, 0.01)[0]) == pytest.approx(np.log(11))


def test_the_loss_is_contrast_and_probe():
    objective, spec = build("simclr", **TINY)
    gradients, _, scalars = gradient(objective, spec, batch())
    parts = scalars["contrast"] + scalars["probe"]
    assert scalars["loss"] == pytest.approx(float(parts), rel=1e-6)
    assert {"accuracy", "top1", "spread"} < scalars.keys()
    assert gradients.keys() == {"model", "projection"}


def test_labels_reach_the_head_only():
    assert_labels_reach_the_head_only("simclr", **TINY)


def test_both_views_go_through_in_one_pass():
    """BatchNorm's statistics are those of both together."""
    objective, spec = build("simclr", **TINY)
    _, rest, _ = gradient(objective, spec, batch())
    inputs = batch()
    images = np.concatenate([inputs["first"], inputs["second"]]).reshape(2 * BATCH, -1)
    linear = objective.model.patches
    outputs = images @ np.asarray(linear.kernel[...]) + np.asarray(linear.bias[...])
    np.testing.assert_allclose(rest["model"]["norm"]["mean"], 0.1 * outputs.mean(0), atol=1e-6)


def test_a_batch_of_one_has_no_negatives():
    objective, spec = build("simclr", **TINY)
    with pytest.raises(UserError, match="at least 2, got 1: raise train.batch_size"):
        gradient(objective, spec, batch(images=1))


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("temperature", 0.0, "above 0, got 0"),
        ("temperature", float("inf"), "above 0"),
        ("hidden", 0, "at least 1"),
        ("width", 0, "at least 1"),
        ("layers", 0, "at least 1"),
    ],
)
def test_options_out_of_range(name, value, rule):
    with pytest.raises(UserError, match=f"objective.options.{name} must be {rule}"):
        build("simclr", **{name: value})


def test_a_run(tmp_path):
    result = run(tiny_run("simclr"), tmp_path / "run")
    measured = {x["step"]: x["val/knn"] for x in lines(tmp_path / "run") if "val/knn" in x}
    assert set(measured) == {2, 4} and result["steps"] == 4
    assert measured[result["best_step"]] == max(measured.values())
    _, _, weights = run_weights(tmp_path / "run")  # what is exported is the model alone
    assert weights and not any("projection" in name for name in weights)


def test_images_of_a_single_class():
    """The probe has nothing to tell apart; the network learns all the same."""
    objective, spec = build("simclr", classes=1, **TINY)
    gradients, _, scalars = gradient(objective, spec, batch(labels=np.ones((BATCH, 1))))
    assert scalars["probe"] == 0 and scalars["accuracy"] == 1 and scalars["contrast"] > 0
    assert not gradients["model"].pop("head")["kernel"].any()
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients["projection"]))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("train", "accumulate", 2, "train.accumulate must be 1 for the objective 'simclr'"),
        ("augment", "mixup", 0.2, "augment.mixup mixes labels"),
    ],
)
def test_what_does_not_fit_is_refused(section, key, value, message, tmp_path):
    c = tiny_run("simclr")
    c[section][key] = value
    with pytest.raises(UserError, match=message):
        run(c, tmp_path / "run")
