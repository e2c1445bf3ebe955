"""Momentum contrast.

He et al. 2020 (arXiv:1911.05722), algorithm 1, with the projection head of MoCo v2
(arXiv:2003.04297).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from vision.metrics import knn_accuracy

INPUTS = {"train": ("query", "key")}
OPTIONS = {"temperature": 0.2, "momentum": 0.99, "queue": 512, "width": 64}
MEASURES = ("knn",)


class MoCo(nnx.Module):
    """Tells the other view of an image from those of earlier images, by their projections."""

    frozen = ("slow", "slow_projection")
    whole_batch = True

    def __init__(self, model, *, temperature, momentum, queue, width, rngs):
        features = model.head.in_features
        self.model = model
        self.slow = nnx.clone(model)
        self.projection = nnx.Sequential(
            nnx.Linear(features, features, rngs=rngs),
            jax.nn.relu,
            nnx.Linear(features, width, rngs=rngs),
        )
        self.slow_projection = nnx.clone(self.projection)
        self.queue = nnx.Variable(unit(jax.random.normal(rngs.params(), (queue, width))))
        self.temperature = temperature
        self.momentum = momentum

    def loss(self, batch):
        query = unit(self.projection(self.model.embed(batch["query"])))
        key = jax.lax.stop_gradient(unit(self.slow_projection(self.slow.embed(batch["key"]))))
        positive = (query * key).sum(-1, keepdims=True)
        logits = jnp.concatenate([positive, query @ self.queue[...].T], 1) / self.temperature
        self.queue[...] = jnp.concatenate([key, self.queue[...]])[: len(self.queue[...])]
        return -jax.nn.log_softmax(logits)[:, 0].mean(), {"top1": (logits.argmax(-1) == 0).mean()}

    def after_update(self):
        self._follow(self.slow, self.model)
        self._follow(self.slow_projection, self.projection)

    def _follow(self, slow, fast):
        m = self.momentum
        old, new = nnx.state(slow, nnx.Param), nnx.state(fast, nnx.Param)
        nnx.update(slow, jax.tree.map(lambda s, f: m * s + (1 - m) * f, old, new))


def unit(z):
    return z / jnp.linalg.norm(z, axis=-1, keepdims=True)


def starts(c):
    return {"slow": "model"}


def validate(embed, loaders):
    return {"knn": knn_accuracy(*embed(loaders["train"]), *embed(loaders["val"]))}


def build(c, model, *, rngs):
    return MoCo(model, **c.options, rngs=rngs)
