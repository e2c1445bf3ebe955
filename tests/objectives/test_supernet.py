"""The supernet's loss against a reference, what a step changes, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.objectives.runs import small
from tests.support.mobile import CLASSES, cut, largest
from vision import objectives
from vision.errors import UserError
from vision.models import mobile_space, surgery
from vision.models.layers.streams import Streams
from vision.models.layers.variants import parse, spell
from vision.objectives.supernet import Supernet
from vision.training.run import run

SPACE = "c4-w4.8d1.2k3.5e2se0.1-h8"
BATCH = 8
DRAWN = 1


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    images = random.normal(size=(BATCH, 10, 10, 3)).astype(np.float32)
    return {"image": jnp.asarray(images), "label": jnp.eye(CLASSES)[random.integers(0, 5, BATCH)]}


def supernet(distill=True, smoothing=0.1):
    options = {"drawn": DRAWN, "distill": distill, "label_smoothing": smoothing}
    objective = Supernet(largest(SPACE), **options, rngs=Streams(0))
    objective.train()
    return objective


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def as_choice(traced):
    """Returns a traced network as a choice of the space."""
    choice = parse(SPACE).largest()
    for letter, numbers in traced.items():
        choice |= {f"{stage}.{letter}": int(n) for stage, n in enumerate(numbers)}
    return choice


@pytest.fixture(scope="module")
def step(batch):
    """(the objective before, after, loss, scalars, gradients) of one step."""
    objective = supernet()
    graph, params, rest = nnx.split(objective, nnx.Param, ...)

    @jax.jit
    def gradient(params):
        def loss(params):
            merged = nnx.merge(graph, params, rest, copy=True)
            value, scalars = merged.loss(batch)
            return value, (scalars, nnx.state(merged, nnx.BatchStat))

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, (scalars, statistics)), gradients = gradient(params)
    return objective, statistics, value, scalars, gradients


def output(arrays, choice, images):
    """Returns the log probabilities of a network that is cut out, as an ordinary model."""
    network = cut(arrays, choice)
    network.train()
    graph, state = nnx.split(network)
    run = jax.jit(lambda state: nnx.merge(graph, state, copy=True)(images))
    return log_softmax(run(state))


@pytest.mark.parametrize("distill", [True, False])
def test_the_loss_is_that_of_its_networks_cut_out(distill, step, batch):
    """The sum over the largest, the smallest and the drawn ones."""
    objective, _, value, scalars, _ = step
    networks = [as_choice(traced) for traced in nnx.clone(objective).draw()]
    if not distill:
        graph, state = nnx.split(supernet(distill=False))
        value, scalars = jax.jit(lambda s: nnx.merge(graph, s, copy=True).loss(batch))(state)
    space = parse(SPACE)
    assert networks[0] == space.smallest() and len(networks) == 1 + DRAWN
    arrays = surgery.arrays(objective.model)
    teacher = output(arrays, space.largest(), batch["image"])
    labels = 0.9 * np.asarray(batch["label"], np.float64) + 0.1 / CLASSES
    targets = np.exp(teacher) if distill else labels
    outputs = [output(arrays, choice, batch["image"]) for choice in networks]
    others = [-(targets * out).sum(1).mean() for out in outputs]
    expected = -(labels * teacher).sum(1).mean() + sum(others)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(scalars["others_loss"], np.mean(others), rtol=2e-5)
    right = np.asarray(batch["label"]).argmax(1)
    assert scalars["accuracy"] == pytest.approx((teacher.argmax(1) == right).mean())
    assert scalars["smallest_accuracy"] == pytest.approx((outputs[0].argmax(1) == right).mean())


def test_only_the_largest_moves_the_averages(step, batch):
    objective, statistics, *_ = step
    graph, state = nnx.split(objective.model)

    @jax.jit
    def alone(state):
        model = nnx.merge(graph, state, copy=True)
        model(batch["image"])
        return nnx.state(model, nnx.BatchStat)

    expected = dict(nnx.to_flat_state(alone(state)))
    for path, average in nnx.to_flat_state(statistics["model"]):
        np.testing.assert_allclose(average[...], expected[path][...], rtol=2e-4, atol=1e-5)


def test_every_parameter_learns(step):
    *_, gradients = step
    for path, gradient in nnx.to_flat_state(gradients):
        assert np.isfinite(gradient[...]).all() and np.abs(gradient[...]).max() > 0, path


def test_the_networks_are_drawn_from_the_objectives_own_stream():
    objective = supernet()
    drawn = [objective.draw()[1] for _ in range(8)]
    assert len({spell(as_choice(traced)) for traced in drawn}) > 3
    for traced in drawn:
        parse(SPACE).check(as_choice(traced))


def settings(tmp_path, **changes):
    c = small()
    c.model.name = "mobile_space"
    c.model.variant = "c4-w4.8e2-h8"
    c.objective.name = "supernet"
    for key, value in changes.items():
        section, name = key.split("__")
        if section == "options":
            c.objective.options[name] = value
        else:
            c[section][name] = value
    return c, tmp_path / "run"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__name": "resnet", "model__variant": "cifar20"}, "needs model.name=mobile_space"),
        ({"model__variant": "mu"}, "names one network, not a space"),
        ({"model__variant": "c4-w4.8e1.2-h8"}, "must be at least 2 to share weights"),
        ({"model__variant": "r8.16-c4-w4.8e2-h8"}, "not in r"),
        ({"options__drawn": -1}, "objective.options.drawn must be at least 0"),
        ({"options__draw": 1}, "did you mean 'drawn'"),
        ({"objective__focal_gamma": 2.0}, "has no effect on the objective 'supernet'"),
    ],
)
def test_mistakes(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(*settings(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_the_space_is_the_models(tmp_path):
    c, _ = settings(tmp_path)
    model = nnx.eval_shape(lambda: mobile_space.build(c.model.variant, 3, rngs=Streams(0)))
    objective = objectives.build(c.objective, model, rngs=Streams(0), class_counts=np.ones(3))
    assert objective.model.variant == c.model.variant
    assert [len(traced["w"]) for traced in objective.draw()] == [1, 1, 1]
