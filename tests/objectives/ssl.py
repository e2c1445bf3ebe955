"""What the tests of learning without labels share: a tiny network, references in NumPy, runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.objectives.runs import small
from vision import objectives
from vision.config import default
from vision.models.layers.norms import BatchNorm
from vision.models.layers.streams import Streams
from vision.training.state import StateSpec

BATCH = 6
CLASSES = 3
SIDE = 4
RNG = np.random.RandomState(0)
VIEWS = {name: RNG.randn(BATCH, SIDE, SIDE, 1) for name in ("first", "second", "strong")}
LABELS = np.eye(CLASSES)[RNG.randint(0, CLASSES, BATCH)]
TINY = {"hidden": 7, "width": 5}  # sizes of the heads


class Network(nnx.Module):
    """One dense layer with BatchNorm, and a head."""

    def __init__(self, rngs, classes=CLASSES):
        self.patches = nnx.Linear(SIDE * SIDE, 8, rngs=rngs)
        self.norm = BatchNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, classes, rngs=rngs)

    def embed(self, images):
        return jnp.tanh(self.norm(self.patches(images.reshape(len(images), -1))))

    def __call__(self, images):
        return self.head(self.embed(images))


def build(name, classes=CLASSES, **options):
    """Returns (objective around a `Network`, its `StateSpec`)."""
    c = default()
    c.objective.name = name
    for key, value in options.items():
        c.objective.options[key] = value

    def create():
        model = Network(Streams(0), classes)
        counts = np.ones(classes)
        return objectives.build(c.objective, model, class_counts=counts, rngs=Streams(1))

    return create(), StateSpec(create)


def batch(progress=0.0, labels=LABELS, images=BATCH):
    views = {name: jnp.asarray(view[:images]) for name, view in VIEWS.items()}
    return views | {"label": jnp.asarray(labels[:images]), "progress": jnp.float32(progress)}


def gradient(objective, spec, inputs):
    """Returns (gradient of the parameters, rest after the loss, scalars)."""
    params, rest = spec.take_apart(objective)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient_of(params):
        merged = spec.merge(params, rest, jax.random.key(0))
        spec.set_training(merged)
        value, scalars = merged.loss(inputs)
        return value, (spec.take_apart(merged)[1], scalars | {"loss": value})

    gradients, (rest, scalars) = gradient_of(params)
    return gradients, rest, scalars


def assert_labels_reach_the_head_only(name, **options):
    """Other labels change the gradient of the head, and not a bit of any other gradient."""
    objective, spec = build(name, **options)
    once, _, _ = gradient(objective, spec, batch())
    again, _, _ = gradient(objective, spec, batch(labels=np.roll(LABELS, 1, axis=1)))
    heads = [tree["model"].pop("head")["kernel"] for tree in (once, again)]
    assert np.abs(heads[0]).max() > 0 and np.abs(heads[0] - heads[1]).max() > 1e-3
    leaves = [jax.tree.leaves(tree) for tree in (once, again)]
    assert len(leaves[0]) > 4
    for a, b in zip(*leaves, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert any(np.abs(leaf).max() > 0 for leaf in leaves[0])


def assert_follows(objective, momentum):
    """`after_update` mixes every parameter and statistic of the slow copies, and nothing else."""
    noise = np.random.RandomState(2)
    for name in ("model", "projection"):
        module = getattr(objective, name)
        for kind in (nnx.Param, nnx.BatchStat):
            state = nnx.state(module, kind)
            nnx.update(module, jax.tree.map(lambda x: x + noise.rand(*x.shape), state))
    pairs = (("slow", "model"), ("slow_projection", "projection"))
    before = {name: arrays(getattr(objective, name)) for pair in pairs for name in pair}
    objective.after_update()
    for slow, fast in pairs:
        after = arrays(getattr(objective, slow))
        assert len(after) == len(before[fast]) > 1
        for path, value in after.items():
            mixed = momentum * before[slow][path] + (1 - momentum) * before[fast][path]
            np.testing.assert_allclose(value, mixed, rtol=1e-5, atol=1e-6)
        for path, value in arrays(getattr(objective, fast)).items():
            np.testing.assert_array_equal(value, before[fast][path])


def arrays(module):
    """Returns {path: array} of a module's parameters and statistics."""
    state = nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    pairs = ((path, np.asarray(variable.get_value())) for path, variable in state)
    return {path: value for path, value in pairs if path[-1] != "count"}


def finite_differences(function, x, step=1e-6):
    """Returns the gradient of a function of a float64 array, by central differences."""
    slopes = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        high = x.copy()
        low = x.copy()
        high[place] += step
        low[place] -= step
        slopes[place] = (function(high) - function(low)) / (2 * step)
    return slopes


def units(*shape, seed=0):
    vectors = np.random.RandomState(seed).randn(*shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def log_softmax(logits):
    highest = logits.max(-1, keepdims=True)
    return logits - highest - np.log(np.exp(logits - highest).sum(-1, keepdims=True))


def tiny_run(name, **options):
    """Returns the config of a tiny training by a method, whose best checkpoint k-NN decides."""
    c = small()
    c.model.name = "tests.support.tiny_resnet"
    c.model.variant = "tiny"
    c.augment.affine = False
    c.strong.affine = False
    for section in (c.augment, c.strong):
        section.random_resized_crop = True
        section.brightness = 0.4
    c.train.steps = 4
    c.train.eval_every = 2
    c.checkpoint.metric = "val/knn"
    c.objective.name = name
    for key, value in (TINY | options).items():
        c.objective.options[key] = value
    return c
