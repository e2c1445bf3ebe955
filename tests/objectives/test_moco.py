"""MoCo v2 and v3 against their algorithms in NumPy; what the slow copy and the queue do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.objectives.runs import checkpoint, lines
from tests.objectives.ssl import (
    BATCH,
    TINY,
    arrays,
    assert_follows,
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
from vision.objectives.moco import in_batch, info_nce, starts
from vision.objectives.representation import unit
from vision.run.weights import run_weights
from vision.training.run import run

pytestmark = pytest.mark.long

V2 = TINY | {"queue": 10}
V3 = TINY | {"queue": 0, "layers": 3}


def reference_v2(q, k, queue, temperature):
    """Algorithm 1: the positive comes first."""
    logits = np.concatenate([(q * k).sum(1, keepdims=True), q @ queue.T], axis=1)
    return -log_softmax(logits / temperature)[:, 0].mean()


def reference_v3(q1, q2, k1, k2, temperature):
    def ctr(q, k):
        log_p = log_softmax(q @ k.T / temperature)
        return 2 * temperature * -np.mean([log_p[i, i] for i in range(len(q))])

    return ctr(q1, k2) + ctr(q2, k1)


def test_info_nce_and_its_gradient(float64):
    q = units(4, 5, seed=1)
    k = units(4, 5, seed=2)
    queue = units(9, 5, seed=3)
    loss, _ = info_nce(*map(jnp.asarray, (q, k, queue)), 0.2)
    assert float(loss) == pytest.approx(reference_v2(q, k, queue, 0.2), rel=1e-12)
    slope = jax.grad(lambda q: info_nce(q, jnp.asarray(k), jnp.asarray(queue), 0.2)[0])
    expected = finite_differences(lambda q: reference_v2(q, k, queue, 0.2), q)
    np.testing.assert_allclose(slope(jnp.asarray(q)), expected, atol=1e-7)
    assert info_nce(jnp.asarray(q), jnp.asarray(q), jnp.asarray(queue), 0.2)[1] == 1


def test_the_symmetrized_loss_and_its_gradient(float64):
    q1, q2, k1, k2 = (units(4, 5, seed=seed) for seed in range(4))

    def ours(q):
        return in_batch(q, jnp.asarray(k2), 0.3) + in_batch(jnp.asarray(q2), jnp.asarray(k1), 0.3)

    assert float(ours(jnp.asarray(q1))) == pytest.approx(reference_v3(q1, q2, k1, k2, 0.3))
    expected = finite_differences(lambda q: reference_v3(q, q2, k1, k2, 0.3), q1)
    np.testing.assert_allclose(jax.grad(ours)(jnp.asarray(q1)), expected, atol=1e-7)


def outputs(objective, view):
    """Returns (queries, keys) of a view, as training computes them."""
    twin = nnx.clone(objective)
    twin.train()
    twin.slow.eval()
    twin.slow_projection.eval()
    projections = twin.projection(twin.model.embed(view))
    queries = twin.prediction(projections) if hasattr(twin, "prediction") else projections
    keys = twin.slow_projection(twin.slow.embed(view))
    return np.asarray(unit(queries)), np.asarray(unit(keys))


def test_v2_contrasts_before_the_keys_enter_the_queue():
    objective, spec = build("moco", **V2)
    queue = np.asarray(objective.queue[...])
    gradients, rest, scalars = gradient(objective, spec, batch())
    queries = outputs(objective, batch()["first"])[0]
    keys = outputs(objective, batch()["second"])[1]
    assert scalars["contrast"] == pytest.approx(reference_v2(queries, keys, queue, 0.2), rel=1e-5)
    assert scalars["loss"] == pytest.approx(float(scalars["contrast"] + scalars["probe"]))
    assert gradients.keys() == {"model", "projection"}
    assert {"accuracy", "top1", "spread"} < scalars.keys()
    expected = np.concatenate([keys, queue[: 10 - BATCH]])  # the oldest leave
    np.testing.assert_allclose(rest["queue"], expected, atol=1e-6)


def test_v3_contrasts_predictions_with_the_other_views_keys():
    objective, spec = build("moco", **V3)
    gradients, _, scalars = gradient(objective, spec, batch())
    q1, k1 = outputs(objective, batch()["first"])
    q2, k2 = outputs(objective, batch()["second"])
    assert scalars["contrast"] == pytest.approx(reference_v3(q1, q2, k1, k2, 0.2), rel=1e-4)
    assert gradients.keys() == {"model", "projection", "prediction"}
    assert not any("queue" in path for path in spec.take_apart(objective)[1])


def test_what_it_starts_from():
    """Random unit vectors, and slow copies that are equal to the last bit."""
    objective, _ = build("moco", **V2)
    lengths = np.linalg.norm(objective.queue[...], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
    assert np.abs(np.asarray(objective.queue[...]).mean(0)).max() < 0.6
    again, _ = build("moco", **V2)
    np.testing.assert_array_equal(objective.queue[...], again.queue[...])
    for slow, fast in (("slow", "model"), ("slow_projection", "projection")):
        values = arrays(getattr(objective, slow))
        for path, value in arrays(getattr(objective, fast)).items():
            np.testing.assert_array_equal(values[path], value)
    assert starts(None) == {"slow": "model"}


@pytest.mark.parametrize(("rises", "momentum"), [(False, 0.9), (True, 0.95)])
@pytest.mark.parametrize("options", [V2, V3], ids=["v2", "v3"])
def test_the_slow_copies_follow(options, rises, momentum):
    objective, _ = build("moco", momentum=0.9, momentum_rises=rises, **options)
    objective.note_progress(batch(progress=0.5))
    assert_follows(objective, momentum)


@pytest.mark.parametrize("options", [V2, V3], ids=["v2", "v3"])
def test_labels_reach_the_head_only(options):
    assert_labels_reach_the_head_only("moco", **options)


def test_frozen_patches():
    """No gradient arrives; what weight decay takes is put back; the rest learns and follows."""
    objective, spec = build("moco", momentum=0.9, freeze_patches=True, **V3)
    gradients, _, _ = gradient(objective, spec, batch())
    frozen = gradients["model"].pop("patches")
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(frozen))
    assert np.asarray(gradients["model"]["norm"]["scale"]).any()
    before = arrays(objective.model)
    objective.model.patches.kernel[...] *= 0.9
    objective.model.norm.scale[...] *= 0.9
    for _ in range(3):
        objective.after_update()
    for module in (objective.model, objective.slow):
        kernel = arrays(module)["patches", "kernel"]
        assert kernel.tobytes() == before["patches", "kernel"].tobytes()
    assert (arrays(objective.slow)["norm", "scale"] < 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "objective.options.temperature must be above 0"),
        ({"momentum": 1.5}, r"objective.options.momentum must be in \[0, 1\], got 1.5"),
        ({"queue": -1}, "objective.options.queue must be at least 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        build("moco", **(TINY | options))


@pytest.mark.parametrize(
    ("options", "images", "message"),
    [
        (V2 | {"queue": BATCH - 1}, BATCH, "at least train.batch_size, got 5 for a batch of 6"),
        (V3, 1, "at least 2, got 1"),
    ],
)
def test_batches_that_do_not_fit(options, images, message):
    objective, spec = build("moco", **options)
    with pytest.raises(UserError, match=message):
        gradient(objective, spec, batch(images=images))


def test_only_a_vit_has_patches(tmp_path):
    with pytest.raises(UserError, match="this model has no patches"):
        run(tiny_run("moco", freeze_patches=True), tmp_path / "run")


@pytest.mark.parametrize("options", [{"queue": 32}, {"queue": 0}], ids=["v2", "v3"])
def test_a_run(options, tmp_path):
    c = tiny_run("moco", momentum=0.5, momentum_rises=True, **options)
    result = run(c, tmp_path / "run")
    measured = {x["step"]: x["val/knn"] for x in lines(tmp_path / "run") if "val/knn" in x}
    assert set(measured) == {2, 4}
    assert measured[result["best_step"]] == max(measured.values())
    rest = checkpoint(tmp_path / "run", 4)["rest"]
    assert {"slow", "slow_projection", "progress"} < rest.keys() and rest["progress"] == 0.75
    assert ("queue" in rest) == bool(options["queue"])
    _, _, weights = run_weights(tmp_path / "run")  # what is exported is the model alone
    assert weights and not any(("projection" in name) or ("slow" in name) for name in weights)


def test_the_batch_is_not_cut(tmp_path):
    c = tiny_run("moco")
    c.train.accumulate = 2
    with pytest.raises(UserError, match="train.accumulate must be 1 for the objective 'moco'"):
        run(c, tmp_path / "run")
